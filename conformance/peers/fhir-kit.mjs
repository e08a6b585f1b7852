// One scenario of a FHIR client that is not Wetread's (fhir-kit-client) against a running server:
//   node fhir-kit.mjs BASE_URL TOKEN SCENARIO
// Ends with status 0 where the client saw what FHIR R4 promises.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { Client } from 'fhir-kit-client';

const [, , baseUrl, token, scenario] = process.argv;
const client = new Client({ baseUrl });
client.bearerToken = token;

const LOINC = 'http://loinc.org';
const fresh = () => randomUUID().slice(0, 8);
const status = (answer) => Client.httpFor(answer).response.status;
const header = (answer, name) => Client.httpFor(answer).response.headers.get(name);

const patient = (family) => ({
  resourceType: 'Patient',
  identifier: [{ system: 'urn:oid:2.999.7', value: family }],
  name: [{ family, given: ['Ada'] }],
  birthDate: '1980-02-29',
});
const observation = (subject, code, value) => ({
  resourceType: 'Observation',
  status: 'final',
  code: { coding: [{ system: LOINC, code }] },
  subject: { reference: `Patient/${subject}` },
  effectiveDateTime: `2026-03-01T10:0${value % 10}:00+01:00`,
  valueQuantity: { value, unit: '/min', system: 'http://unitsofmeasure.org', code: '/min' },
});
const create = (body, headers) => client.create({ resourceType: body.resourceType, body, options: { headers } });
const search = (resourceType, searchParams, options) => client.search({ resourceType, searchParams, options });
const resources = (bundle) => (bundle.entry ?? []).map((entry) => entry.resource);
const ids = (bundle) => resources(bundle).map((one) => `${one.resourceType}/${one.id}`).sort();

async function refused(code, promise) {
  const error = await promise.then(() => assert.fail(`not refused, ${code} was due`), (caught) => caught);
  assert.ok(error.response, error.stack);
  assert.equal(error.response.status, code);
  assert.equal(error.response.data.resourceType, 'OperationOutcome');
  return error.response.data;
}

// A patient of its own with `count` Observations, the values 1 to count.
async function chart(count) {
  const person = await create(patient(`Kit${fresh()}`));
  const made = [];
  for (let value = 1; value <= count; value += 1) made.push(await create(observation(person.id, '8867-4', value)));
  return { person, made };
}

const scenarios = {
  async capabilities() {
    const statement = await client.capabilityStatement();
    assert.equal(statement.resourceType, 'CapabilityStatement');
    assert.equal(statement.fhirVersion, '4.0.1');
    const types = statement.rest[0].resource.map((one) => one.type);
    for (const type of ['Patient', 'Observation', 'ImagingStudy', 'DiagnosticReport', 'Task']) assert.ok(types.includes(type), type);
  },

  async 'create, read, vread'() {
    const made = await create(patient(`Kit${fresh()}`));
    assert.equal(status(made), 201);
    assert.match(header(made, 'location'), new RegExp(`/Patient/${made.id}/_history/1$`));
    assert.equal(header(made, 'etag'), 'W/"1"');
    const read = await client.read({ resourceType: 'Patient', id: made.id });
    assert.deepEqual(read, made);
    const version = await client.vread({ resourceType: 'Patient', id: made.id, version: '1' });
    assert.deepEqual(version, made);
    await refused(404, client.read({ resourceType: 'Patient', id: `none-${fresh()}` }));
  },

  async 'conditional read'() {
    const made = await create(patient(`Kit${fresh()}`));
    const headers = { 'if-none-match': header(made, 'etag') };
    const error = await client.read({ resourceType: 'Patient', id: made.id, options: { headers } }).catch((caught) => caught);
    assert.equal(error.response?.status, 304);
  },

  async 'update with If-Match'() {
    const made = await create(patient(`Kit${fresh()}`));
    const change = (gender, etag) =>
      client.update({ resourceType: 'Patient', id: made.id, body: { ...made, gender }, options: { headers: { 'if-match': etag } } });
    const changed = await change('female', 'W/"1"');
    assert.equal(status(changed), 200);
    assert.equal(changed.meta.versionId, '2');
    await refused(412, change('male', 'W/"1"'));
    assert.equal((await client.read({ resourceType: 'Patient', id: made.id })).gender, 'female');
  },

  async 'update as create'() {
    const id = `kit-${fresh()}`;
    const made = await client.update({ resourceType: 'Patient', id, body: { ...patient('Kit'), id } });
    assert.equal(status(made), 201);
    assert.equal(made.id, id);
  },

  async 'conditional create'() {
    const body = patient(`Kit${fresh()}`);
    const headers = { 'if-none-exist': `identifier=urn:oid:2.999.7|${body.identifier[0].value}` };
    const first = await create(body, headers);
    const again = await create(body, headers);
    assert.deepEqual([status(first), status(again)], [201, 200]);
    assert.equal(again.id, first.id);
  },

  async 'conditional update'() {
    const body = patient(`Kit${fresh()}`);
    const searchParams = { identifier: `urn:oid:2.999.7|${body.identifier[0].value}` };
    const first = await client.update({ resourceType: 'Patient', searchParams, body });
    const again = await client.update({ resourceType: 'Patient', searchParams, body: { ...body, active: true } });
    assert.deepEqual([status(first), status(again)], [201, 200]);
    assert.deepEqual([again.id, again.meta.versionId, again.active], [first.id, '2', true]);
  },

  async patch() {
    const made = await create(patient(`Kit${fresh()}`));
    const patch = (jsonPatch) => client.patch({ resourceType: 'Patient', id: made.id, jsonPatch });
    const changed = await patch([
      { op: 'test', path: '/birthDate', value: '1980-02-29' },
      { op: 'add', path: '/name/0/given/-', value: 'Mae' },
      { op: 'replace', path: '/birthDate', value: '1981' },
    ]);
    assert.deepEqual(changed.name[0].given, ['Ada', 'Mae']);
    assert.deepEqual([changed.birthDate, changed.meta.versionId], ['1981', '2']);
    const error = await patch([{ op: 'test', path: '/birthDate', value: '1980' }]).catch((caught) => caught);
    assert.ok([409, 412, 422].includes(error.response?.status), String(error));
  },

  async delete() {
    const made = await create(patient(`Kit${fresh()}`));
    const gone = await client.delete({ resourceType: 'Patient', id: made.id });
    assert.ok([200, 204].includes(status(gone)));
    await refused(410, client.read({ resourceType: 'Patient', id: made.id }));
    assert.equal((await client.vread({ resourceType: 'Patient', id: made.id, version: '1' })).id, made.id);
  },

  async history() {
    const made = await create(patient(`Kit${fresh()}`));
    await client.update({ resourceType: 'Patient', id: made.id, body: { ...made, active: true } });
    await client.delete({ resourceType: 'Patient', id: made.id });
    const instance = await client.resourceHistory({ resourceType: 'Patient', id: made.id });
    assert.equal(instance.type, 'history');
    assert.equal(instance.total, 3);
    assert.deepEqual(instance.entry.map((entry) => entry.request.method), ['DELETE', 'PUT', 'POST']);
    const type = await client.typeHistory({ resourceType: 'Patient' });
    assert.ok(type.entry.some((entry) => entry.resource?.id === made.id));
    const system = await client.systemHistory();
    assert.ok(system.entry.some((entry) => entry.resource?.id === made.id));
  },

  async 'search by GET and POST'() {
    const { person, made } = await chart(3);
    const asked = { patient: person.id, code: `${LOINC}|8867-4`, 'value-quantity': 'ge2' };
    const expected = made.slice(1).map((one) => `Observation/${one.id}`).sort();
    assert.deepEqual(ids(await search('Observation', asked)), expected);
    assert.deepEqual(ids(await search('Observation', asked, { postSearch: true })), expected);
  },

  async 'search in a compartment'() {
    const { person, made } = await chart(2);
    const found = await client.compartmentSearch({ resourceType: 'Observation', compartment: { resourceType: 'Patient', id: person.id } });
    assert.deepEqual(ids(found), made.map((one) => `Observation/${one.id}`).sort());
  },

  async 'search over types'() {
    const { person, made } = await chart(1);
    const found = await client.systemSearch({ searchParams: { _type: 'Patient,Observation', _id: `${person.id},${made[0].id}` } });
    assert.deepEqual(ids(found), [`Observation/${made[0].id}`, `Patient/${person.id}`]);
  },

  async 'chain, _has and _include'() {
    const { person, made } = await chart(2);
    const everything = [...made.map((one) => `Observation/${one.id}`), `Patient/${person.id}`].sort();
    const chained = await search('Observation', { 'subject:Patient.family': person.name[0].family, _include: 'Observation:subject' });
    assert.deepEqual(ids(chained), everything);
    const reversed = await search('Patient', { _id: person.id, _revinclude: 'Observation:subject' });
    assert.deepEqual(ids(reversed), everything);
    assert.deepEqual(reversed.entry.filter((entry) => entry.search.mode === 'match').map((entry) => entry.resource.id), [person.id]);
    const having = await search('Patient', { '_has:Observation:patient:code': `${LOINC}|8867-4`, family: person.name[0].family });
    assert.deepEqual(ids(having), [`Patient/${person.id}`]);
  },

  async 'paging forward and back'() {
    const { person, made } = await chart(7);
    let page = await search('Observation', { patient: person.id, _count: 3, _sort: 'value-quantity', _total: 'accurate' });
    assert.equal(page.total, 7);
    const pages = [];
    let current = page;
    while (current) {
      pages.push(resources(current).map((one) => one.valueQuantity.value));
      current = await client.nextPage({ bundle: current });
    }
    assert.deepEqual(pages, [[1, 2, 3], [4, 5, 6], [7]]);
    assert.equal(made.length, 7);
  },

  async batch() {
    const family = `Kit${fresh()}`;
    const answer = await client.batch({ body: {
      resourceType: 'Bundle',
      type: 'batch',
      entry: [
        { resource: patient(family), request: { method: 'POST', url: 'Patient' } },
        { request: { method: 'GET', url: `Patient/none-${family}` } },
        { request: { method: 'GET', url: 'Patient?_count=1' } },
      ],
    } });
    assert.equal(answer.type, 'batch-response');
    assert.deepEqual(answer.entry.map((entry) => entry.response.status.slice(0, 3)), ['201', '404', '200']);
  },

  async transaction() {
    const family = `Kit${fresh()}`;
    const urn = `urn:uuid:${randomUUID()}`;
    const bundle = (second) => ({ body: {
      resourceType: 'Bundle',
      type: 'transaction',
      entry: [
        { fullUrl: `urn:uuid:${randomUUID()}`, resource: second, request: { method: 'POST', url: 'Observation' } },
        { fullUrl: urn, resource: patient(family), request: { method: 'POST', url: 'Patient', ifNoneExist: `identifier=urn:oid:2.999.7|${family}` } },
      ],
    } });
    const sign = { ...observation('x', '8867-4', 60), subject: { reference: urn } };
    const bad = await client.transaction(bundle({ ...sign, status: 'no-such-status' })).catch((caught) => caught);
    assert.ok(bad.response?.status >= 400, 'a bad entry was taken');
    assert.deepEqual(ids(await search('Patient', { family })), [], 'half a transaction was kept');
    const answer = await client.transaction(bundle(sign));
    assert.equal(answer.type, 'transaction-response');
    assert.deepEqual(answer.entry.map((entry) => entry.response.status.slice(0, 3)), ['201', '201']);
    const found = await search('Observation', { 'subject:Patient.family': family });
    assert.equal(resources(found)[0].subject.reference.split('/').slice(-2)[0], 'Patient');
    const again = await client.transaction(bundle(sign));
    assert.deepEqual(again.entry.map((entry) => entry.response.status.slice(0, 3)), ['201', '200']);
  },

  async operations() {
    const { person, made } = await chart(2);
    const everything = await client.operation({ resourceType: 'Patient', id: person.id, name: 'everything', method: 'GET' });
    assert.deepEqual(ids(everything), [...made.map((one) => `Observation/${one.id}`), `Patient/${person.id}`].sort());
    const input = { resourceType: 'Parameters', parameter: [{ name: 'resource', resource: { ...patient('x'), gender: 'no-such' } }] };
    const outcome = await client.operation({ resourceType: 'Patient', name: 'validate', input });
    assert.equal(outcome.resourceType, 'OperationOutcome');
    assert.ok(outcome.issue.some((issue) => ['error', 'fatal'].includes(issue.severity)));
    const last = await client.operation({ resourceType: 'Observation', name: 'lastn', method: 'GET', input: { patient: person.id, code: `${LOINC}|8867-4`, max: 1 } });
    assert.equal(resources(last).filter((one) => one.resourceType === 'Observation').length, 1);
  },

  async 'references are resolved'() {
    const { person, made } = await chart(1);
    const subject = await client.resolve({ reference: made[0].subject.reference });
    assert.equal(subject.id, person.id);
  },

  async 'refusals are outcomes'() {
    client.bearerToken = 'none';
    await refused(401, search('Patient', {}));
    client.bearerToken = token;
    await refused(404, client.request('NoSuchType/1'));
    await refused(400, search('Patient', { 'no-such-parameter': '1' }, { headers: { prefer: 'handling=strict' } }));
  },
};

if (!scenarios[scenario]) throw new Error(`no such scenario; there are: ${Object.keys(scenarios).join('; ')}`);
await scenarios[scenario]();
process.exit(0);
