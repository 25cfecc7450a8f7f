import { once } from 'node:events';
import net from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Health } from '../src/health/health.ts';
import { becomes } from './becomes.ts';

const idle = { ready: 1, draining: 0, uncoveredExperts: 0, missingWorkers: 0, running: 0, waiting: 0, stepAgeMs: -1 };
const hourMs = 3_600_000;
let health: Health;
afterEach(async () => {
  vi.restoreAllMocks();
  await health.close();
});

async function statusOf(port: number, question: string): Promise<number> {
  return (await fetch(`http://127.0.0.1:${port}/health/${question}`)).status;
}

describe('the thread that answers for health', () => {
  it('finds out that the main loop is stuck though the clock was set back', async () => {
    const now = Date.now();
    vi.spyOn(Date, 'now').mockReturnValue(now + hourMs);
    health = new Health(() => idle, { stallMs: 50, liveMs: 100 });
    vi.restoreAllMocks();
    // It was never started: there is no other beat.
    const port = await health.serve('127.0.0.1', 0);
    for (const question of ['live', 'ready', 'progress']) await becomes(async () => (await statusOf(port, question)) === 503);
  });

  it('does not take the clock that is set forward for a main loop that is stuck', async () => {
    const now = Date.now();
    vi.spyOn(Date, 'now').mockReturnValue(now - hourMs);
    health = new Health(() => idle, { stallMs: 10_000, liveMs: 10_000 });
    health.start();
    const port = await health.serve('127.0.0.1', 0);
    for (const question of ['live', 'ready', 'progress']) expect(await statusOf(port, question)).toBe(200);
  });

  it('is not kept from probes by those who connect and say nothing', { timeout: 15_000 }, async () => {
    health = new Health(() => idle, { stallMs: 60_000, liveMs: 60_000 });
    const port = await health.serve('127.0.0.1', 0);
    const silent = Array.from({ length: 64 }, () => net.connect(port, '127.0.0.1').on('error', () => {}));
    await Promise.all(silent.map((socket) => once(socket, 'connect')));
    await becomes(() =>
      statusOf(port, 'live')
        .then((status) => status === 200)
        .catch(() => false),
    );
    for (const socket of silent) socket.destroy();
  });
});
