import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import http2 from 'node:http2';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { attachToCoordinator, errorCatalogue, type LinkOptions, serveControl, type WorkerStream } from '../src/index.ts';

// The real bound is more time than a test should take.
vi.mock('../src/limits.ts', async (original) => {
  const { limits } = await original<typeof import('../src/limits.ts')>();
  return { limits: { ...limits, dialTimeoutMs: 500, linksPerListenerMax: 2 } };
});

const open: LinkOptions = { token: '', tls: null };
const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-cl-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('the listener of the control plane', () => {
  it('lets go of connections without a stream, and of none that has one', async () => {
    let accepted: WorkerStream | null = null;
    const listener = await serveControl('127.0.0.1:0', open, (stream) => {
      accepted = stream;
    });
    const port = Number(listener.address.split(':').at(-1));
    // The oldest of all.
    const attached = await attachToCoordinator(listener.address, open);
    let ended = false;
    void attached.closed.then(() => {
      ended = true;
    });
    const silent = net.connect(port, '127.0.0.1');
    silent.resume();
    const polite = http2.connect(`http://127.0.0.1:${port}`);
    polite.on('error', () => {});
    await Promise.all([once(silent, 'close'), once(polite, 'close')]);
    expect(ended).toBe(false);
    expect(accepted).not.toBeNull();
    await attached.close();
    await listener.close();
  });

  it('tells whoever it has no room for that trying again can help', async () => {
    const listener = await serveControl('127.0.0.1:0', open, () => {});
    const attached = [await attachToCoordinator(listener.address, open), await attachToCoordinator(listener.address, open)];
    const refusal = await attachToCoordinator(listener.address, open).catch((error) => error);
    expect(refusal).toMatchObject({ code: 'queue_full', message: expect.stringContaining('2 links are open') });
    expect(errorCatalogue.queue_full.retry).toBe(true);
    await Promise.all(attached.map((stream) => stream.close()));
    await listener.close();
  });

  it('is a socket for its owner alone, whatever the mask of files is', async () => {
    const mask = process.umask(0);
    try {
      const socket = path.join(folder, 'control.sock');
      const listener = await serveControl(`unix:${socket}`, open, () => {});
      expect(statSync(socket).mode & 0o777).toBe(0o600);
      const attached = await attachToCoordinator(listener.address, open);
      await attached.close();
      await listener.close();
    } finally {
      process.umask(mask);
    }
  });
});
