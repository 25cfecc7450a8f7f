import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { grpcTransport, type Link, limits, SwitchyardError } from '../src/index.ts';
import { relayTo } from './relay.ts';

const options = { token: '', tls: null };
const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;

describe('a grpc link that is over', () => {
  it.each(['cut by the network', 'cut by who dialled', 'cut by who listened', 'closed in order'])(
    'leaves no timer behind: %s',
    async (how) => {
      const accepted: Link[] = [];
      const listener = await grpcTransport().listen('grpc://127.0.0.1:0', options, (link) => accepted.push(link));
      closing.push(() => listener.close());
      const relay = await relayTo({ host: '127.0.0.1', port: Number(/\d+$/.exec(listener.address)![0]) }, { host: '127.0.0.1', port: 0 });
      closing.push(() => relay.close());
      await sleep(100); // so that the test runner's own have run out
      const before = timers();
      const dialled = await grpcTransport().dial(`grpc://127.0.0.1:${relay.endpoint.port}`, options);
      const reason = new SwitchyardError('internal', 'broken on purpose');
      if (how === 'cut by the network') relay.cut();
      else if (how === 'cut by who dialled') void dialled.close(reason);
      else if (how === 'cut by who listened') void accepted[0].close(reason);
      else void dialled.close();
      await Promise.all([dialled.closed, accepted[0].closed]);
      await expect.poll(timers, { timeout: limits.closeTimeoutMs / 10 }).toBeLessThanOrEqual(before);
    },
  );
});
