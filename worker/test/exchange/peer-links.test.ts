import { type Link, type LinkOptions, MemoryNetwork, SwitchyardError } from '@switchyard/proto';
import { afterEach, describe, expect, test } from 'vitest';
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
    network.sever('memory://a');
    while (events.length < 3) await new Promise((resolve) => setImmediate(resolve));
    expect(events[2]).toBe('down 3 link_closed');
    expect(links.stats()[0]).toMatchObject({ peer: 3, bytesSent: 10, bytesReceived: 20, transport: 'memory' });
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
});
