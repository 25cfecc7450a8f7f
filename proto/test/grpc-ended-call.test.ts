import net from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { grpcTransport, type Listener } from '../src/index.ts';

let listener: Listener | null = null;
afterEach(async () => await listener?.close());

/** RFC 9113 §4.1. */
function frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

/** A field that is in no table (RFC 7541 §6.2.2). */
function field(name: string, value: string): Buffer {
  return Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)]);
}

const fields = [
  [':method', 'POST'],
  [':scheme', 'http'],
  [':path', '/switchyard.v1.Data/Exchange'],
  [':authority', 'x'],
  ['content-type', 'application/grpc'],
  ['te', 'trailers'],
];
const call = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  frame(4, 0, 0, Buffer.alloc(0)),
  frame(1, 4, 1, Buffer.concat(fields.map(([name, value]) => field(name, value)))),
]);

/** Node tells of a call a turn after its headers came. An error thrown then is nobody's, and ends the process (here: the test). */
test.each([
  ['cancels it', frame(3, 0, 1, Buffer.from([0, 0, 0, 8]))],
  ['resets it without an error', frame(3, 0, 1, Buffer.alloc(4))],
  ['goes away with an error', frame(7, 0, 0, Buffer.from([0, 0, 0, 1, 0, 0, 0, 2]))],
  ['sends trailers that do not end it', frame(1, 4, 1, field('x', 'y'))],
])('whoever calls and in the same breath %s ends nothing but its connection', async (_, ending) => {
  const transport = grpcTransport();
  listener = await transport.listen('grpc://127.0.0.1:0', { token: 'secret', tls: null }, () => {});
  const port = Number(new URL(listener.address.replace('grpc', 'http')).port);
  const socket = net.connect(port, '127.0.0.1').on('error', () => {});
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.resume().end(Buffer.concat([call, ending]));
  await closed;
  const link = await transport.dial(listener.address, { token: 'secret', tls: null });
  expect(link.peer).toBe(listener.address);
  await link.close();
});
