import { type Link, type LinkOptions, MemoryNetwork, SwitchyardError } from '@switchyard/proto';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { PeerLinks } from '../../src/exchange/peer-links.ts';

const options: LinkOptions = { token: '', tls: null };

describe('PeerLinks', () => {
  let links: PeerLinks | null = null;
  afterEach(() => links?.close());

  const create = (network: MemoryNetwork) => {
    const events: string[] = [];
    const made = new PeerLinks(([address], signal) => network.dial(address, { ...options, signal }), {
      up: (worker) => events.push(`up ${worker}`),
      down: (worker, reason) => events.push(`down ${worker} ${reason.code}`),
      frame: (worker, frame) => events.push(`frame ${worker} ${frame.length}`),
    });
    links = made;
    return { links: made, events };
  };

  test('dials what is announced, hands over frames, and reports bytes once a link is gone', async () => {
    const network = new MemoryNetwork();
    const accepted: Link[] = [];
    await network.listen('memory://a', options, (link) => accepted.push(link));
    const { links, events } = create(network);
    links.announce(3, ['memory://a']);
    await links.settled(3);
    expect(events).toEqual(['up 3']);
    links.link(3)!.send(new Uint8Array(10));
    accepted[0].send(new Uint8Array(20));
    while (events.length < 2) await new Promise((resolve) => setImmediate(resolve));
    expect(events[1]).toBe('frame 3 20');
    expect(links.stats()[0]).toMatchObject({ bytesSent: 10, bytesReceived: 20 });
    network.sever('memory://a');
    while (events.length < 3) await new Promise((resolve) => setImmediate(resolve));
    expect(events[2]).toBe('down 3 link_closed');
    expect(links.stats()[0]).toMatchObject({ peer: 3, bytesSent: 10, bytesReceived: 20, transport: 'memory' });
    links.countFrame(3);
    for (const seconds of [0.25, 0.5]) links.countRoundTrip(3, seconds);
    expect(links.stats()[0]).toMatchObject({ framesSent: 1, roundTrips: 2, roundTripSeconds: 0.75 });
  });

  test('an announcement dials at once, and settles with its outcome', async () => {
    const network = new MemoryNetwork();
    const { links, events } = create(network);
    links.announce(1, ['memory://nobody']);
    await links.settled(1);
    expect(events).toEqual(['down 1 link_closed']);
    expect(links.link(1)).toBeNull();
    await network.listen('memory://there', options, () => {});
    links.announce(1, ['memory://there']);
    await links.settled(1);
    expect(links.link(1)).not.toBeNull();
    await network.listen('memory://elsewhere', options, () => {});
    const before = links.link(1);
    links.announce(1, ['memory://elsewhere']);
    await links.settled(1);
    expect(links.link(1)).not.toBe(before);
    expect(links.link(1)!.peer).toBe('memory://elsewhere');
  });

  test('a link that opens while all are being closed is closed too', async () => {
    const network = new MemoryNetwork();
    const accepted: Link[] = [];
    await network.listen('memory://a', options, (link) => accepted.push(link));
    let open = () => {};
    const held = new Promise<void>((resolve) => {
      open = resolve;
    });
    const made = new PeerLinks(
      async ([address]) => {
        const link = await network.dial(address, options);
        await held;
        return link;
      },
      { up: () => {}, down: () => {}, frame: () => {} },
    );
    made.announce(2, ['memory://a']);
    while (accepted.length === 0) await new Promise((resolve) => setImmediate(resolve));
    await made.close();
    open();
    await accepted[0].closed;
    expect(made.link(2)).toBeNull();
  });

  test('a worker that has moved is not waited for where it was', async () => {
    const network = new MemoryNetwork();
    await network.listen('memory://there', options, () => {});
    const events: string[] = [];
    links = new PeerLinks(
      ([address], signal) =>
        address === 'memory://nowhere'
          ? new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('given up'))))
          : network.dial(address, { ...options, signal }),
      { up: () => events.push('up'), down: () => events.push('down'), frame: () => {} },
    );
    links.announce(1, ['memory://nowhere']);
    const settled = links.settled(1);
    links.announce(1, ['memory://there']);
    await settled;
    expect(links.link(1)!.peer).toBe('memory://there');
    expect(events).toEqual(['up']);
  });

  test('nobody is waited for longer than one dial takes, however often it is announced', async () => {
    let fail = () => {};
    links = new PeerLinks(() => new Promise((_, reject) => (fail = () => reject(new Error('no answer')))), {
      up: () => {},
      down: () => {},
      frame: () => {},
    });
    links.announce(1, ['memory://nowhere']);
    const settled = links.settled(1);
    links.announce(1, ['memory://nowhere']);
    fail();
    await settled;
    expect(links.link(1)).toBeNull();
  });

  test('an old address that answers after the move is not believed', async () => {
    const network = new MemoryNetwork();
    const accepted: Link[] = [];
    await network.listen('memory://old', options, (link) => accepted.push(link));
    await network.listen('memory://new', options, () => {});
    let answer = () => {};
    const late = new Promise<void>((resolve) => {
      answer = resolve;
    });
    links = new PeerLinks(
      async ([address]) => {
        const link = await network.dial(address, options);
        if (address === 'memory://old') await late;
        return link;
      },
      { up: () => {}, down: () => {}, frame: () => {} },
    );
    links.announce(1, ['memory://old']);
    while (accepted.length === 0) await new Promise((resolve) => setImmediate(resolve));
    links.announce(1, ['memory://new']);
    answer();
    await links.settled(1);
    expect(links.link(1)!.peer).toBe('memory://new');
    await accepted[0].closed;
  });

  test('a link that is cut is dialled again by itself', async () => {
    const network = new MemoryNetwork();
    await network.listen('memory://a', options, () => {});
    const { links, events } = create(network);
    links.announce(0, ['memory://a']);
    await links.settled(0);
    links.cut(0, new SwitchyardError('deadline_exceeded', 'late'));
    while (events.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(events).toEqual(['up 0', 'down 0 deadline_exceeded', 'up 0']);
  });

  test('all that is open is closed, nobody is dialled any more, and nobody is waited for', async () => {
    const network = new MemoryNetwork();
    const accepted: Link[] = [];
    await network.listen('memory://a', options, (link) => accepted.push(link));
    const { links } = create(network);
    links.announce(0, ['memory://a']);
    await links.settled(0);
    await links.close();
    expect(await accepted[0].closed).toBeNull();
    links.announce(1, ['memory://a']);
    await links.settled(1);
    expect([links.link(0), links.link(1)]).toEqual([null, null]);
    expect(accepted.length).toBe(1);
  });

  test('whoever waits for a dial hears when it is given up', async () => {
    links = new PeerLinks(
      (_, signal) => new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('given up')))),
      {
        up: () => {},
        down: () => {},
        frame: () => {},
      },
    );
    links.announce(1, ['memory://nowhere']);
    const settled = links.settled(1);
    await links.close();
    await settled;
  });

  describe('redials', () => {
    afterEach(() => {
      vi.useRealTimers();
    });

    /** Links of which the test decides what becomes of each dial, and when each began. */
    const dialled = () => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
      const startMs = Date.now();
      const dials: { atMs: number; answer: (link: Link) => void; fail: () => Promise<void> }[] = [];
      const made = new PeerLinks(
        () =>
          new Promise((answer, reject) => {
            const fail = async () => {
              reject(new Error('no answer'));
              await turn();
            };
            dials.push({ atMs: Date.now() - startMs, answer, fail });
          }),
        { up: () => {}, down: () => {}, frame: () => {} },
      );
      links = made;
      made.announce(1, ['memory://a']);
      return { links: made, dials };
    };
    const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

    test('after pauses that grow to two seconds, and begin anew after a link', async () => {
      const { dials } = dialled();
      for (let vain = 0; vain < 7; vain++) {
        await dials[vain].fail();
        await vi.advanceTimersToNextTimerAsync();
      }
      const times = dials.map(({ atMs }) => atMs);
      expect(times.slice(1).map((ms, i) => ms - times[i])).toEqual([100, 200, 400, 800, 1600, 2000, 2000]);
      const network = new MemoryNetwork();
      await network.listen('memory://a', options, () => {});
      dials[7].answer(await network.dial('memory://a', options));
      await turn();
      network.sever('memory://a');
      for (let i = 0; i < 3; i++) await turn();
      await vi.advanceTimersToNextTimerAsync();
      expect(dials[8].atMs - dials[7].atMs).toBe(50);
    });

    test('at once what is announced, whether it is being dialled or a pause goes on', async () => {
      const { links, dials } = dialled();
      links.announce(1, ['memory://a']);
      await dials[0].fail();
      expect(dials.length).toBe(2);
      await dials[1].fail();
      expect(vi.getTimerCount()).toBe(1);
      links.announce(1, ['memory://a']);
      await turn();
      expect(dials.length).toBe(3);
      expect(vi.getTimerCount()).toBe(0);
    });

    test('nobody who has left, once there is no link, until it is announced again', async () => {
      const { links, dials } = dialled();
      const network = new MemoryNetwork();
      await network.listen('memory://a', options, () => {});
      dials[0].answer(await network.dial('memory://a', options));
      await turn();
      links.onlyThese(new Set([2]));
      expect(links.link(1)).not.toBeNull();
      network.sever('memory://a');
      for (let i = 0; i < 3; i++) await turn();
      expect([links.link(1), dials.length, vi.getTimerCount()]).toEqual([null, 1, 0]);
      links.announce(1, ['memory://a']);
      await turn();
      expect(dials.length).toBe(2);
      await dials[1].fail();
      expect(vi.getTimerCount()).toBe(1);
      links.onlyThese(new Set());
      await links.close();
      expect(vi.getTimerCount()).toBe(0);
    });

    test('nobody once it is closed', async () => {
      const { links, dials } = dialled();
      await dials[0].fail();
      const settled = links.settled(1);
      await links.close();
      await settled;
      expect([dials.length, vi.getTimerCount()]).toEqual([1, 0]);
    });
  });
});
