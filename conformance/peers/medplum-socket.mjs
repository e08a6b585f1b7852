// Medplum's client library, with its own manager of websocket subscriptions, against a running server:
//   node --experimental-websocket medplum-socket.mjs BASE_URL TOKEN
// BASE_URL ends in /fhir. Ends with status 0 where the manager heard what FHIR R4 promises.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { ClientStorage, MedplumClient, MemoryStorage, SubscriptionManager } from '@medplum/core';

const [, , baseUrl, accessToken] = process.argv;
const root = baseUrl.replace(/fhir$/, '');
const medplum = new MedplumClient({
  baseUrl: root,
  fhirUrlPath: 'fhir',
  accessToken,
  storage: new ClientStorage(new MemoryStorage()),
  cacheTime: 0,
  // The manager asks for its token below fhir/R4, whatever fhirUrlPath says.
  fetch: (url, options) => fetch(String(url).replace('/fhir/R4/', '/fhir/'), options),
});
medplum.getProfile = () => ({ resourceType: 'Practitioner', id: 'tester' });

const manager = new SubscriptionManager(medplum, `${baseUrl.replace(/^http/, 'ws')}/websocket`, { pingIntervalMs: 500 });
const within = (promise, what) =>
  Promise.race([promise, new Promise((_, reject) => setTimeout(() => reject(new Error(`no ${what}`)), 20_000))]);
const next = (emitter, type) => within(new Promise((resolve) => emitter.addEventListener(type, resolve, { once: true })), type);
const task = (status) => ({
  resourceType: 'Task',
  identifier: [{ system: 'urn:oid:2.999.7', value: randomUUID() }],
  status,
  intent: 'order',
});

const master = manager.getMasterEmitter();
await next(master, 'open');
const emitter = manager.addCriteria('Task?status=completed');
const { payload } = await next(emitter, 'connect');
const subscriptionId = payload.subscriptionId;

const told = next(emitter, 'message');
await medplum.createResource(task('requested'));
await medplum.createResource(task('completed'));
const status = (await told).payload.entry[0].resource;
assert.equal(status.type, 'event-notification');
assert.equal(status.subscription.reference.split('/').pop(), subscriptionId);
assert.deepEqual(status.notificationEvent.map((event) => event.eventNumber), ['1']);

// Pings are answered: the manager would reconnect after two that are not.
let reopened = 0;
master.addEventListener('open', () => (reopened += 1));
await new Promise((resolve) => setTimeout(resolve, 1600));
assert.equal(reopened, 0);

// A connection that is lost: the manager connects, subscribes and binds anew by itself.
const connected = next(emitter, 'connect');
manager.getWebSocket().reconnect();
assert.notEqual((await connected).payload.subscriptionId, subscriptionId);
const again = next(emitter, 'message');
await medplum.createResource(task('completed'));
assert.equal((await again).payload.entry[0].resource.type, 'event-notification');

manager.removeCriteria('Task?status=completed');
manager.closeWebSocket();
process.exit(0);
