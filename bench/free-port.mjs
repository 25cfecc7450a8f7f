import { once } from 'node:events';
import net from 'node:net';

/** Where kernels begin to give ports to whoever asks for any (Linux; others later): what is free below is not given to somebody else meanwhile. */
const [first, end] = [20_000, 32_768];

/** A port of this machine's own address on which nobody listens. */
export async function freePort() {
  for (;;) {
    const port = first + Math.floor(Math.random() * (end - first));
    const probe = net.createServer().listen(port, '127.0.0.1');
    const isFree = await once(probe, 'listening').then(
      () => true,
      () => false,
    );
    if (!isFree) continue;
    probe.close();
    await once(probe, 'close');
    return port;
  }
}
