// What a TCP connection gets from the network between two hosts: `node probe.mjs serve PORT` on one, `node probe.mjs measure ADDRESS PORT MEGABYTES` on the other.
import { once } from 'node:events';
import net from 'node:net';

const [role, ...args] = process.argv.slice(2);
/** The first byte of a connection says what it is for. */
const ECHO = 1;
const SWALLOW = 2;
const roundTrips = 41;

if (role === 'serve') {
  net
    .createServer((socket) => {
      socket.setNoDelay(true);
      socket.on('error', () => {});
      let purpose = 0;
      socket.on('data', (chunk) => {
        purpose ||= chunk[0];
        if (purpose === ECHO) socket.write(chunk);
      });
      socket.on('end', () => socket.end('done'));
    })
    .listen(Number(args[0]), () => process.stdout.write('ready\n'));
} else {
  const [address, port, megabytes] = [args[0], Number(args[1]), Number(args[2])];
  const connect = async () => {
    const socket = net.connect(port, address);
    socket.setNoDelay(true);
    await once(socket, 'connect');
    return socket;
  };
  const echo = await connect();
  const times = [];
  for (let i = 0; i < roundTrips; i++) {
    const startedMs = performance.now();
    echo.write(Buffer.from([ECHO]));
    await once(echo, 'data');
    times.push(1000 * (performance.now() - startedMs));
  }
  echo.destroy();
  const bulk = await connect();
  const block = Buffer.alloc(2 ** 20, SWALLOW);
  const startedMs = performance.now();
  for (let i = 0; i < megabytes; i++) if (!bulk.write(block)) await once(bulk, 'drain');
  bulk.end();
  await once(bulk, 'data');
  const seconds = (performance.now() - startedMs) / 1000;
  times.sort((a, b) => a - b);
  const result = { roundTripMicros: { least: times[0], median: times[roundTrips >> 1] }, bytesPerSecond: (megabytes * 2 ** 20) / seconds };
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
