import net from 'node:net';

/** Stands between a dialler and a listener that speak over sockets, and does to their bytes what a network may. */
export interface Relay {
  /** Where to dial instead. */
  endpoint: net.ListenOptions;
  /** Nothing gets through any more, and nobody is told: the peer's machine vanished. */
  vanish(): void;
  /** Every byte from here on is another one. */
  corrupt(): void;
  /** The connection breaks, without a word. */
  cut(): void;
  close(): Promise<void>;
}

export async function relayTo(target: net.NetConnectOpts, at: net.ListenOptions): Promise<Relay> {
  let mode: 'pass' | 'vanished' | 'corrupt' = 'pass';
  const sockets = new Set<net.Socket>();
  const carry = (from: net.Socket, to: net.Socket) => {
    sockets.add(from);
    from.on('error', () => {});
    from.on('data', (chunk: Buffer) => {
      if (mode === 'vanished') return;
      if (mode === 'corrupt') for (let i = 0; i < chunk.length; i++) chunk[i] ^= 0xa5;
      if (!to.write(chunk)) from.pause();
    });
    to.on('drain', () => from.resume());
    from.on('end', () => {
      if (mode !== 'vanished') to.end();
    });
    from.on('close', () => {
      sockets.delete(from);
      if (mode !== 'vanished') to.destroy();
    });
  };
  const server = net.createServer({ allowHalfOpen: true }, (near) => {
    const far = net.connect({ ...target, allowHalfOpen: true });
    carry(near, far);
    carry(far, near);
  });
  await new Promise<void>((resolve) => server.listen(at, resolve));
  const address = server.address();
  return {
    endpoint: typeof address === 'string' ? { path: address } : { host: '127.0.0.1', port: address!.port },
    vanish: () => {
      mode = 'vanished';
    },
    corrupt: () => {
      mode = 'corrupt';
    },
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
