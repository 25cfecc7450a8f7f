import { afterEach, expect, test, vi } from 'vitest';
import { limits, MemoryNetwork } from '../src/index.ts';

const options = { token: '', tls: null };

afterEach(() => vi.useRealTimers());

test('a link whose peer stands still is cut when it has had its time to close', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const network = new MemoryNetwork();
  await network.listen('memory://w0', options, () => {});
  const link = await network.dial('memory://w0', options);
  network.stall('memory://w0', true);
  let over = false;
  const closing = link.close().then(() => {
    over = true;
  });
  await vi.advanceTimersByTimeAsync(limits.closeTimeoutMs - 1);
  expect(over).toBe(false);
  await vi.advanceTimersByTimeAsync(1);
  await closing;
  expect(await link.closed).toMatchObject({ code: 'link_closed', message: expect.stringContaining(`within ${limits.closeTimeoutMs} ms`) });
});
