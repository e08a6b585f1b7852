// Sends the HL7 messages of files, in turn, with a client that is not Wetread's:
//   node send.js CLIENT HOST PORT FILE...
// Prints a JSON line for each answer: {"client", "file", "ack", "code", "of"} with MSA-1 and MSA-2.
'use strict';
const fs = require('fs');

const clients = {
  async 'node-hl7-client'(host, port) {
    const { Client, Message } = require('node-hl7-client');
    let answered;
    const connection = new Client({ host, ipv4: true }).createConnection({ port }, async (response) => answered(response.getMessage()));
    return {
      async send(text) {
        const answer = new Promise((resolve) => { answered = resolve; });
        await connection.sendMessage(new Message({ text }));
        const ack = await answer;
        return { ack: ack.toString(), code: ack.get('MSA.1').toString(), of: ack.get('MSA.2').toString() };
      },
      close: () => connection.close(),
    };
  },
  async '@medplum/hl7'(host, port) {
    const { Hl7Message } = require('@medplum/core');
    const { Hl7Client } = require('@medplum/hl7');
    const client = new Hl7Client({ host, port, encoding: 'utf-8', keepAlive: true });
    return {
      async send(text) {
        const ack = await client.sendAndWait(Hl7Message.parse(text));
        const msa = ack.getSegment('MSA');
        return { ack: ack.toString(), code: msa.getField(1).toString(), of: msa.getField(2).toString() };
      },
      close: () => client.close(),
    };
  },
  async 'simple-hl7'(host, port) {
    const hl7 = require('simple-hl7');
    const client = hl7.Server.createTcpClient({ host, port, keepalive: true });
    return {
      async send(text) {
        const ack = await new Promise((resolve, reject) =>
          client.send(text, (error, message) => (error ? reject(error) : resolve(message))));
        const msa = ack.getSegment('MSA');
        return { ack: ack.toString(), code: msa.getField(1), of: msa.getField(2) };
      },
      close: () => client.close(),
    };
  },
};

async function main([name, host, port, ...files]) {
  const client = await clients[name](host, Number(port));
  for (const file of files) {
    const answer = await client.send(fs.readFileSync(file, 'utf-8'));
    console.log(JSON.stringify({ client: name, file, ...answer }));
  }
  await client.close();
  process.exit(0);
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
