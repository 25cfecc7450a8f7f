import type { ChildProcess } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { becomes } from '../../test/becomes.ts';
import {
  frameMemory,
  giveBackFrame,
  type Link,
  type LinkOptions,
  type Listener,
  limits,
  SwitchyardError,
  type Transport,
} from '../src/index.ts';
import { collect, digest, digests, mixedFrames } from './link-frames.ts';
import { type Peer, type PeerRole, spawnPeer } from './link-peer.ts';
import type { Relay } from './relay.ts';

export interface ConformanceSubject {
  name: string;
  /** A transport with these bounds, or the usual ones. */
  create: (bounds: { frameBytesMax?: number; pendingBytesMax?: number }) => Transport;
  /** A fresh address to listen on. */
  address: () => string;
  options?: LinkOptions;
  /** Of who dials, where not the same. */
  dialOptions?: LinkOptions;
  /** Puts a relay before a listener. Absent: what it sends passes nobody. */
  relay?: (address: string) => Promise<{ relay: Relay; address: string }>;
  /** A transport that takes a silent peer for dead within a second. Absent: it leaves that to others. */
  impatient?: () => Transport;
  /** Why nothing of it can run here; null or absent: it can. */
  unavailable?: string | null;
  /** Cases the subject cannot take part in, and why. */
  skip?: { reason: string; cases: SkippedCase[] };
}

type SkippedCase = 'another process' | 'oversize at the receiver' | 'broken connection';

const MIB = 1024 * 1024;
/** More than any other case opens. */
const fewLinks = 16;
const otherVersion = new URL('fixtures/other-version.mjs', import.meta.url).href;

/**
 * Everything `Link` promises, for one transport. An implementation joins by describing itself, in a test that mocks `limits.linksPerListenerMax` to be
 * `fewLinks`: 4,096 would take more descriptors than a process may have.
 */
export function linkConformance(subject: ConformanceSubject): void {
  const options = subject.options ?? { token: '', tls: null };
  const dialOptions = subject.dialOptions ?? options;
  const relays: Relay[] = [];
  const listeners: Listener[] = [];
  const links: Link[] = [];
  const children: ChildProcess[] = [];
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    await Promise.all(relays.splice(0).map((r) => r.close()));
    await Promise.all(links.splice(0).map((l) => l.close()));
    await Promise.all(listeners.splice(0).map((l) => l.close()));
  });

  async function listen(transport: Transport, accept: (link: Link) => void, using = options): Promise<string> {
    const listener = await transport.listen(subject.address(), using, (link) => {
      links.push(link);
      accept(link);
    });
    listeners.push(listener);
    return listener.address;
  }

  async function dial(transport: Transport, address: string, using: LinkOptions & { signal?: AbortSignal } = dialOptions): Promise<Link> {
    const link = await transport.dial(address, using);
    links.push(link);
    return link;
  }

  /** Both ends of a new link; the listener's end runs `atAccept` inside its `accept`. */
  async function pair(
    transport = subject.create({}),
    atAccept: (link: Link) => void = () => {},
  ): Promise<{ dialled: Link; accepted: Link }> {
    let given!: (link: Link) => void;
    const arrival = new Promise<Link>((resolve) => {
      given = resolve;
    });
    const address = await listen(transport, (link) => {
      atAccept(link);
      given(link);
    });
    return { dialled: await dial(transport, address), accepted: await arrival };
  }

  const startPeer = (role: PeerRole, address: string, flags: string[] = []): Peer => {
    const peer = spawnPeer(role, address, role === 'dial' ? dialOptions : options, flags);
    children.push(peer.child);
    return peer;
  };
  const skipped = (name: SkippedCase) => subject.skip?.cases.includes(name) ?? false;

  const unavailable = subject.unavailable ?? null;
  describe.skipIf(unavailable !== null)(`link over ${subject.name}${unavailable === null ? '' : ` (${unavailable})`}`, () => {
    it('delivers frames of all sizes whole and in order, both ways at once', async () => {
      const { dialled, accepted } = await pair();
      const up = mixedFrames(1);
      const down = mixedFrames(2);
      const gotUp = collect(accepted, up.length);
      const gotDown = collect(dialled, down.length);
      for (let i = 0; i < up.length; i++) {
        dialled.send(up[i]);
        accepted.send(down[i]);
      }
      expect(digests(await gotUp)).toEqual(digests(up));
      expect(digests(await gotDown)).toEqual(digests(down));
    });

    it('gives every frame memory of its own', async () => {
      const { dialled, accepted } = await pair();
      const frames = mixedFrames(3);
      const before = digests(frames);
      const got: Uint8Array[] = [];
      const seen: string[] = [];
      const all = new Promise<void>((resolve) => {
        accepted.onFrame((frame) => {
          seen.push(digest(frame));
          frame.fill(0xee); // The receiver owns it; nobody else may notice.
          if (got.push(frame) === frames.length) resolve();
        });
      });
      for (const frame of frames) dialled.send(frame);
      await all;
      expect(seen).toEqual(before);
      expect(digests(frames)).toEqual(before);
      expect(got.every((frame) => frame.every((byte) => byte === 0xee))).toBe(true);
    });

    it('delivers frames whose memory both ends use again', async () => {
      const { dialled, accepted } = await pair();
      const count = 180;
      let arrived = 0;
      const wrong: number[] = [];
      const all = new Promise<void>((resolve) => {
        accepted.onFrame((frame) => {
          if (!Buffer.alloc(frame.length, arrived + 1).equals(frame)) wrong.push(arrived);
          giveBackFrame(frame);
          if (++arrived === count) resolve();
        });
      });
      for (let i = 0; i < count; i++) {
        const bytes = i % 3 === 0 ? 70_000 + ((i * 7919) % 5) * 90_000 : 1 + ((i * 7919) % 20_000);
        const frame = frameMemory(bytes).fill(i + 1);
        if (!dialled.send(frame)) await dialled.drained();
      }
      await all;
      expect(wrong).toEqual([]);
    });

    it('keeps frames that arrive before anyone receives them', async () => {
      const { dialled } = await pair(undefined, (link) => {
        link.send(Uint8Array.of(1));
        link.send(Uint8Array.of(2));
      });
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect((await collect(dialled, 2)).map((f) => f[0])).toEqual([1, 2]);
    });

    it.each([undefined, new SwitchyardError('bad_frame', 'no frame of ours')])(
      'hands over none of them after the first made it close: %s',
      async (reason) => {
        const { dialled } = await pair(undefined, (link) => {
          for (let i = 0; i < 3; i++) link.send(Uint8Array.of(i));
        });
        await new Promise((resolve) => setTimeout(resolve, 20));
        const got: number[] = [];
        dialled.onFrame((frame) => {
          got.push(frame[0]);
          void dialled.close(reason);
        });
        await dialled.closed;
        expect(got).toEqual([0]);
      },
    );

    it('tells the sender to wait, and when to go on', async () => {
      const { dialled, accepted } = await pair(subject.create({ pendingBytesMax: 4 * MIB }));
      const frames = Array.from({ length: 64 }, (_, i) => new Uint8Array(MIB).fill(i));
      const got = collect(accepted, frames.length);
      let refused = 0;
      for (const frame of frames) {
        if (dialled.send(frame)) continue;
        refused++;
        expect(dialled.pendingBytes).toBeGreaterThanOrEqual(4 * MIB);
        await dialled.drained();
        expect(dialled.pendingBytes).toBeLessThanOrEqual(2 * MIB);
      }
      expect(refused).toBeGreaterThan(0);
      expect((await got).map((f) => f[0])).toEqual(frames.map((f) => f[0]));
    });

    it.each([false, true])('slows the sender down while nobody receives, or who does pauses: %s', async (pauses) => {
      const { dialled, accepted } = await pair(undefined, (link) => (pauses ? link.pause() : undefined));
      const numbers = Array.from({ length: 64 }, (_, i) => i);
      const received = pauses ? collect(accepted, numbers.length) : null;
      for (const number of numbers) dialled.send(new Uint8Array(MIB).fill(number));
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(dialled.pendingBytes).toBeGreaterThan(16 * MIB); // The rest is in socket buffers, windows and the inbox.
      if (pauses) accepted.resume();
      expect((await (received ?? collect(accepted, numbers.length))).map((f) => f[0])).toEqual(numbers);
    });

    it('stops waiting for room when told to, and when the link closes', async () => {
      const { dialled } = await pair(subject.create({ pendingBytesMax: MIB }));
      for (let i = 0; i < 48; i++) dialled.send(new Uint8Array(MIB));
      const reason = new Error('enough');
      await expect(dialled.drained(AbortSignal.abort(reason))).rejects.toBe(reason);
      const controller = new AbortController();
      const aborted = dialled.drained(controller.signal);
      const waiting = dialled.drained();
      controller.abort(reason);
      await expect(aborted).rejects.toBe(reason);
      await dialled.close(new SwitchyardError('internal', 'test'));
      await waiting;
    });

    it.each(['dialled', 'accepted'] as const)('closes in order when the %s end does, after what it sent', async (closer) => {
      const ends = await pair();
      const far = ends[closer === 'dialled' ? 'accepted' : 'dialled'];
      const got: number[] = [];
      far.onFrame((frame) => got.push(frame[0]));
      for (let i = 0; i < 50; i++) ends[closer].send(new Uint8Array(10_000).fill(i));
      await ends[closer].close();
      expect(await far.closed).toBeNull();
      expect(await ends[closer].closed).toBeNull();
      expect(got).toEqual(Array.from({ length: 50 }, (_, i) => i));
      for (const end of [ends.dialled, ends.accepted])
        expect(() => end.send(Uint8Array.of(1))).toThrow(expect.objectContaining({ code: 'link_closed' }));
    });

    it.each([
      ['nothing of what a pause kept, once the link was cut', new SwitchyardError('internal', 'test'), []],
      ['what a pause kept, once the peer has closed in order', undefined, [7]],
    ])('hands over %s', async (_what, reason, handedOver) => {
      const { dialled, accepted } = await pair(undefined, (link) => link.pause());
      const got: number[] = [];
      accepted.onFrame((frame) => got.push(frame[0]));
      dialled.send(new Uint8Array(100).fill(7));
      await becomes(() => accepted.bytes.received >= 100);
      await dialled.close(reason);
      expect((await accepted.closed)?.code).toBe(reason && 'link_closed');
      accepted.resume();
      expect(got).toEqual(handedOver);
    });

    it('closes in order when both ends do at once', async () => {
      const { dialled, accepted } = await pair();
      await Promise.all([dialled.close(), accepted.close(), dialled.close()]);
      expect([await dialled.closed, await accepted.closed]).toEqual([null, null]);
    });

    it.each(['dialled', 'accepted'] as const)('cuts the link when the %s end gives a reason', async (cutter) => {
      const ends = await pair();
      const far = ends[cutter === 'dialled' ? 'accepted' : 'dialled'];
      const reason = new SwitchyardError('internal', 'broken on purpose');
      await ends[cutter].close(reason);
      expect(await ends[cutter].closed).toBe(reason);
      expect(await far.closed).toMatchObject({ code: 'link_closed' });
    });

    it('does not call it order where the peer cuts a link that waits for it to take what was sent', async () => {
      const { dialled, accepted } = await pair();
      for (let i = 0; i < 48; i++) dialled.send(new Uint8Array(MIB));
      const closing = dialled.close();
      await accepted.close(new SwitchyardError('internal', 'broken on purpose'));
      await closing;
      expect(await dialled.closed).toMatchObject({ code: 'link_closed' });
    });

    it('refuses an oversize or empty frame at the sender, and goes on', async () => {
      const { dialled, accepted } = await pair(subject.create({ frameBytesMax: 1000 }));
      const got = collect(accepted, 1);
      for (const bytes of [0, 1001])
        expect(() => dialled.send(new Uint8Array(bytes))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
      dialled.send(new Uint8Array(1000));
      expect((await got)[0].length).toBe(1000);
    });

    it.skipIf(skipped('oversize at the receiver'))('closes with bad_frame where an oversize frame arrives', async () => {
      let arrived!: (link: Link) => void;
      const accepted = new Promise<Link>((resolve) => {
        arrived = resolve;
      });
      const address = await listen(subject.create({ frameBytesMax: 1000 }), (link) => {
        link.onFrame(() => {});
        arrived(link);
      });
      const dialled = await dial(subject.create({}), address);
      dialled.send(new Uint8Array(1001));
      expect(await (await accepted).closed).toMatchObject({ code: 'bad_frame' });
      expect(await dialled.closed).toMatchObject({ code: 'link_closed' });
    });

    it('counts the bytes of frames alike at both ends', async () => {
      const { dialled, accepted } = await pair();
      const frames = mixedFrames(4);
      const got = collect(accepted, frames.length);
      for (const frame of frames) dialled.send(frame);
      await got;
      const payload = frames.reduce((sum, f) => sum + f.length, 0);
      expect(accepted.bytes.received).toBe(dialled.bytes.sent);
      expect(dialled.bytes.sent).toBeGreaterThanOrEqual(payload);
      expect(dialled.bytes.sent).toBeLessThanOrEqual(payload + 8 * frames.length);
      expect(dialled.bytes.received).toBe(0);
    });

    it('keeps links apart', async () => {
      const transport = subject.create({});
      const address = await listen(transport, (link) => link.onFrame((frame) => link.send(frame)));
      await Promise.all(
        Array.from({ length: 12 }, async (_, i) => {
          const link = await dial(transport, address);
          const echoed = collect(link, 20);
          for (let n = 0; n < 20; n++) link.send(new Uint8Array(1000 + n).fill(i));
          for (const [n, frame] of (await echoed).entries()) expect([frame.length, frame[0], frame.at(-1)]).toEqual([1000 + n, i, i]);
        }),
      );
    });

    it('lets in who knows the token and nobody else', async () => {
      const transport = subject.create({});
      const guarded = { ...options, token: 'let me in' };
      const accepted: Link[] = [];
      const address = await listen(transport, (link) => accepted.push(link), guarded);
      for (const token of ['', 'let me', 'let me in ', 'LET ME IN'])
        await expect(transport.dial(address, { ...dialOptions, token })).rejects.toMatchObject({ code: 'unauthorized' });
      const link = await dial(transport, address, { ...dialOptions, token: guarded.token });
      const echoed = collect(link, 1);
      accepted[0].send(Uint8Array.of(7));
      expect((await echoed)[0][0]).toBe(7);
      expect(accepted.length).toBe(1);
    });

    it('says so where nobody listens, and when dialling is given up', async () => {
      const transport = subject.create({});
      const listener = await transport.listen(subject.address(), options, () => {});
      await listener.close();
      await expect(transport.dial(listener.address, dialOptions)).rejects.toMatchObject({ code: 'link_closed' });
      await expect(transport.dial(listener.address, { ...dialOptions, signal: AbortSignal.abort() })).rejects.toMatchObject({
        code: 'cancelled',
      });
    });

    it('ends its links in order when the listener closes', async () => {
      const transport = subject.create({});
      const listener = await transport.listen(subject.address(), options, (link) => links.push(link));
      const dialled = await Promise.all([dial(transport, listener.address), dial(transport, listener.address)]);
      await listener.close();
      expect(await Promise.all(dialled.map((l) => l.closed))).toEqual([null, null]);
    });

    it('takes nobody new while its listener waits for links to close', async () => {
      const transport = subject.create({});
      let accepted = 0;
      const listener = await transport.listen(subject.address(), options, (link) => {
        accepted++;
        links.push(link);
        for (let i = 0; i < 48; i++) link.send(new Uint8Array(MIB)); // Nobody takes them, so it is not closed soon.
      });
      const dialled = await dial(transport, listener.address);
      const closing = listener.close();
      await expect(dial(transport, listener.address)).rejects.toMatchObject({ code: 'link_closed' });
      await dialled.close(new SwitchyardError('internal', 'no longer waited for'));
      await closing;
      expect(accepted).toBe(1);
    });

    it('refuses more links than a listener may have, until one of them ends', async () => {
      expect(limits.linksPerListenerMax).toBe(fewLinks);
      const transport = subject.create({});
      const address = await listen(transport, () => {});
      const open: Link[] = [];
      while (open.length < fewLinks) open.push(await dial(transport, address));
      const refused = { code: 'queue_full', message: expect.stringContaining(`${fewLinks} links are open`) };
      for (let tries = 0; tries < 2; tries++) await expect(transport.dial(address, dialOptions)).rejects.toMatchObject(refused);
      await open[0].close();
      // The other end may hear of it a little later.
      await expect.poll(() => dial(transport, address).then(() => 'open'), { timeout: 10_000 }).toBe('open');
      await expect(transport.dial(address, dialOptions)).rejects.toMatchObject(refused);
    });

    it.skipIf(skipped('another process'))('notices that the process which dialled was killed', async () => {
      const closed = new Promise<SwitchyardError | null>((resolve) => {
        void listen(subject.create({}), (link) => void link.closed.then(resolve)).then(async (address) => {
          const { child, line } = startPeer('dial', address);
          expect(await line()).toBe('open');
          child.kill('SIGKILL');
        });
      });
      expect(await closed).toMatchObject({ code: 'link_closed' });
    });

    it.skipIf(skipped('another process'))('notices that the process which listened was killed, with frames on their way', async () => {
      const { child, line } = startPeer('listen', subject.address());
      const link = await dial(subject.create({}), await line());
      const echoed = collect(link, 1);
      link.send(new Uint8Array(100));
      expect((await echoed)[0].length).toBe(100);
      for (let i = 0; i < 32; i++) link.send(new Uint8Array(MIB));
      child.kill('SIGKILL');
      expect(await link.closed).toMatchObject({ code: 'link_closed' });
    });

    it.skipIf(skipped('another process'))('loses nothing while the other process is stopped', async () => {
      const { child, line } = startPeer('listen', subject.address());
      const link = await dial(subject.create({}), await line());
      expect(await line()).toBe('open');
      const frames = Array.from({ length: 30 }, (_, i) => new Uint8Array(100_000).fill(i));
      const echoed: number[] = [];
      const all = new Promise<void>((resolve) => {
        link.onFrame((frame) => {
          if (echoed.push(frame[0]) === frames.length) resolve();
        });
      });
      child.kill('SIGSTOP');
      for (const frame of frames) link.send(frame);
      await new Promise((resolve) => setTimeout(resolve, 200));
      expect(echoed).toEqual([]);
      child.kill('SIGCONT');
      await all;
      expect(echoed).toEqual(frames.map((f) => f[0]));
    });

    it.skipIf(skipped('another process'))('refuses a process that speaks another version, whoever dials', async () => {
      const accepted: Link[] = [];
      const address = await listen(subject.create({}), (link) => accepted.push(link));
      const dialler = startPeer('dial', address, ['--import', otherVersion]);
      expect(await dialler.line()).toBe('refused version_mismatch');
      expect(accepted).toEqual([]);
      const listener = startPeer('listen', subject.address(), ['--import', otherVersion]);
      await expect(subject.create({}).dial(await listener.line(), dialOptions)).rejects.toMatchObject({ code: 'version_mismatch' });
    });

    const { relay: relayed, impatient } = subject;
    /** Both ends of a link through a relay, after one frame each way. */
    async function through(transport: Transport): Promise<{ dialled: Link; accepted: Link; relay: Relay; got: number[] }> {
      const got: number[] = [];
      let arrived!: (link: Link) => void;
      const accepted = new Promise<Link>((resolve) => {
        arrived = resolve;
      });
      const address = await listen(transport, (link) => {
        link.onFrame((frame) => {
          got.push(frame[0]);
          if (frame[0] === 1) link.send(frame);
        });
        arrived(link);
      });
      const between = await relayed!(address);
      relays.push(between.relay);
      const dialled = await dial(transport, between.address);
      const echoed = collect(dialled, 1);
      dialled.send(new Uint8Array(1000).fill(1));
      await echoed;
      return { dialled, accepted: await accepted, relay: between.relay, got };
    }

    it.skipIf(relayed === undefined)('closes, and delivers nothing wrong, when bytes arrive that were not sent', async () => {
      const { dialled, accepted, relay, got } = await through((impatient ?? (() => subject.create({})))());
      relay.corrupt();
      dialled.send(new Uint8Array(1000).fill(2));
      accepted.send(new Uint8Array(1000).fill(2));
      for (const end of [accepted, dialled])
        expect(await end.closed).toMatchObject({ code: expect.stringMatching(/bad_frame|link_closed/) });
      expect(got).toEqual([1]);
    });

    it.skipIf(relayed === undefined || skipped('broken connection'))('closes both ends when the connection breaks', async () => {
      const { dialled, accepted, relay } = await through(subject.create({}));
      relay.cut();
      for (const end of [accepted, dialled]) expect(await end.closed).toMatchObject({ code: 'link_closed' });
    });

    it.skipIf(impatient === undefined)('closes when the peer falls silent, as a machine that lost its power does', async () => {
      const { dialled, accepted, relay } = await through(impatient!());
      relay.vanish();
      dialled.send(new Uint8Array(1000).fill(2));
      for (const end of [accepted, dialled]) expect(await end.closed).toMatchObject({ code: 'link_closed' });
    });
  });
}
