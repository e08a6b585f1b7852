// Takes signed notifications by the library of Standard Webhooks, as a receiver would:
//   node receive-webhooks.mjs PORT SECRET
// Prints {"listening": PORT}, then a JSON line for each request: {"path", "verified", "id", "body"}. Answers 204 or 401.
import { createServer } from 'node:http';
import { Webhook } from 'standardwebhooks';

const [port, secret] = process.argv.slice(2);
const webhook = new Webhook(secret);
const say = (value) => console.log(JSON.stringify(value));

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts).toString('utf8');
  let verified = true;
  try {
    webhook.verify(body, request.headers);
  } catch {
    verified = false;
  }
  say({ path: request.url, verified, id: request.headers['webhook-id'], body });
  response.writeHead(verified ? 204 : 401).end();
}).listen(Number(port), '127.0.0.1', () => say({ listening: Number(port) }));
