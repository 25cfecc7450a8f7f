import net from 'node:net';

/** Writes bytes to a connection as they are and reads what comes back until it closes, or `quietMs` pass without a byte. */
export async function exchangeBytes(
  url: string,
  pieces: (string | Uint8Array)[],
  options: { quietMs?: number; pauseMs?: number } = {},
): Promise<string> {
  const { hostname, port } = new URL(url);
  const { quietMs = 3_000, pauseMs = 0 } = options;
  return await new Promise((resolve) => {
    const socket = net.connect(Number(port), hostname);
    let received = '';
    const end = () => {
      socket.destroy();
      resolve(received);
    };
    socket.setTimeout(quietMs, end);
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1');
    });
    socket.on('close', end);
    socket.on('error', () => {});
    void (async () => {
      for (const piece of pieces) {
        if (socket.destroyed) return;
        socket.write(piece);
        if (pauseMs > 0) await new Promise((next) => setTimeout(next, pauseMs));
      }
    })();
  });
}

export function statusOf(raw: string): number {
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(raw)?.[1] ?? 0);
}
