// Receives HL7 messages over MLLP with a server that is not Wetread's, and acknowledges them:
//   node receive.js SERVER PORT [AA|AE|AR]
// Prints {"listening": PORT}, then a JSON line for each message, as that server reads it: {"type", "control_id", "text"}.
'use strict';

const net = require('net');

const say = (value) => console.log(JSON.stringify(value));

const servers = {
  'node-hl7-server'(port, code) {
    const { Server } = require('node-hl7-server');
    const inbound = new Server({ bindAddress: '127.0.0.1' }).createInbound({ port }, async (request, response) => {
      const message = request.getMessage();
      const [kind, trigger] = ['MSH.9.1', 'MSH.9.2'].map((path) => message.get(path).toString());
      say({ type: `${kind}^${trigger}`, control_id: message.get('MSH.10').toString(), text: message.toString() });
      await response.sendResponse(code);
    });
    inbound.on('listen', () => say({ listening: port }));
  },
  '@medplum/hl7'(port, code) {
    const { Hl7Server } = require('@medplum/hl7');
    const server = new Hl7Server((connection) => {
      connection.addEventListener('message', ({ message }) => {
        const header = message.getSegment('MSH');
        say({ type: header.getField(9).toString(), control_id: header.getField(10).toString(), text: message.toString() });
        const ack = message.buildAck();
        ack.getSegment('MSA').setField(1, code);
        connection.send(ack);
      });
    });
    server.start(port, 'utf-8');
    server.server.on('listening', () => say({ listening: port }));
  },
  'simple-hl7'(port, code) {
    const app = require('simple-hl7').tcp();
    app.use((request, response) => {
      const header = request.msg.header;
      say({ type: `${request.type}^${request.event}`, control_id: String(header.getField(8)), text: request.msg.toString() });
      response.ack.getSegment('MSA').setField(1, code);
      response.end();
    });
    app.start(port);
    const knock = () => net.connect(port, '127.0.0.1', function () { this.end(); say({ listening: port }); })
      .on('error', () => setTimeout(knock, 20));
    knock(); // it does not tell when it listens
  },
};

const [name, port, code = 'AA'] = process.argv.slice(2);
servers[name](Number(port), code);
