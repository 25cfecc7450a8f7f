import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import * as grpc from '@grpc/grpc-js';
import fc from 'fast-check';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FrameReader, GOODBYE, writePrefix } from '../src/frame-reader.ts';
import type { FramedLink } from '../src/framed-link.ts';
import {
  grpcTransport,
  type Link,
  type Listener,
  limits,
  PROTOCOL_VERSION,
  type SharedMemory,
  SwitchyardError,
  sharedMemoryTransport,
  socketTransport,
} from '../src/index.ts';
import { diallerHandshake, type Handshake, listenerHandshake, refusalFrame, refusalOf } from '../src/link-handshake.ts';
import { REGION_NONCE_BYTES, regionBytes } from '../src/shared-ring.ts';
import { listenOnSocket } from '../src/socket-transport.ts';

const open = { token: '', tls: null };
const listeners: Listener[] = [];
afterEach(async () => {
  await Promise.all(listeners.splice(0).map((l) => l.close()));
});

async function listen(token = '', accept: (link: Link) => void = () => {}): Promise<{ port: number; accepted: Link[] }> {
  const accepted: Link[] = [];
  const listener = await socketTransport('tcp').listen('tcp://127.0.0.1:0', { token, tls: null }, (link) => {
    accepted.push(link);
    accept(link);
  });
  listeners.push(listener);
  return { port: Number(listener.address.split(':').at(-1)), accepted };
}

/** Sends raw bytes; gives the frames that came back when the other end closed the connection. */
function talk(port: number, ...chunks: Uint8Array[]): Promise<Uint8Array[]> {
  return new Promise((resolve) => {
    const frames: Uint8Array[] = [];
    const reader = new FrameReader(limits.frameBytesMax, { frame: (f) => frames.push(f), goodbye: () => {} });
    const socket = net.connect(port, '127.0.0.1', () => {
      for (const chunk of chunks) socket.write(chunk);
    });
    socket.on('data', (chunk) => reader.push(chunk));
    socket.on('error', () => {});
    socket.on('close', () => resolve(frames));
  });
}

const framed = (body: Uint8Array) => Buffer.concat([writePrefix(body.length), body]);
const hello = (edit: (frame: Buffer) => void = () => {}, scheme = 'tcp') => {
  const frame = Buffer.from(diallerHandshake(scheme, '').next().value!);
  edit(frame);
  return framed(frame);
};

describe('a listener on a socket', () => {
  it.each([
    ['another version', hello((f) => f.writeUInt16LE(PROTOCOL_VERSION + 1, 4)), /protocol version 2 is not 1/],
    ['another magic number', hello((f) => f.writeUInt32LE(7, 0)), /no magic number/],
    ['a step out of turn', hello((f) => f.writeUInt8(3, 6)), /step 3 where 1/],
    ['a short hello', framed(hello().subarray(8, 20)), /hello of 4 bytes/],
    ['another scheme', hello(undefined, 'uds'), /scheme "uds" where tcp listens/],
  ])('refuses %s and says why', async (_, bytes, why) => {
    const { port, accepted } = await listen();
    const [refusal] = await talk(port, bytes);
    expect(Buffer.from(refusal).toString('latin1')).toMatch(why);
    expect(accepted).toEqual([]);
  });

  it.each([
    ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a frame longer than a handshake may be', framed(new Uint8Array(limits.handshakeBytesMax + 1))],
    ['a length that its check word does not confirm', Buffer.from('4000000000000000', 'hex')],
    ['a goodbye first', writePrefix(GOODBYE)],
  ])('hangs up on %s', async (_, bytes) => {
    const { port, accepted } = await listen();
    expect(await talk(port, bytes)).toEqual([]);
    expect(accepted).toEqual([]);
  });

  it('does not take a proof made for another connection', async () => {
    const { port, accepted } = await listen('token');
    // A proof that answers the challenge of an earlier conversation.
    const dialler = diallerHandshake('tcp', 'token');
    const listener = listenerHandshake('tcp', 'token');
    listener.next();
    const stale = dialler.next(listener.next(dialler.next().value!).value!);
    const [, refusal] = await talk(port, hello(), framed(stale.value!));
    expect(Buffer.from(refusal).toString('latin1')).toMatch(/token/);
    expect(accepted).toEqual([]);
  });

  it('does not wait for a silent dialler when it closes', async () => {
    const { port } = await listen();
    const socket = net.connect(port, '127.0.0.1');
    await new Promise((resolve) => socket.once('connect', resolve));
    await talk(port, framed(Buffer.from('no hello'))); // The listener has seen who came before.
    const hungUp = new Promise((resolve) => socket.on('error', () => {}).once('close', resolve));
    await listeners.pop()!.close();
    await hungUp;
  }, 5_000); // The handshake's own limit is ten seconds.

  it('closes a link whose stream loses its framing', async () => {
    const closed = new Promise<SwitchyardError | null>((resolve) => {
      void listen('', (link) => {
        link.onFrame(() => {});
        void link.closed.then(resolve);
      }).then(({ port }) => {
        const dialler = diallerHandshake('tcp', '');
        const socket = net.connect(port, '127.0.0.1', () => socket.write(framed(dialler.next().value!)));
        const reader = new FrameReader(limits.frameBytesMax, {
          frame: (frame) => {
            const said = dialler.next(frame);
            if (said.value !== null) socket.write(framed(said.value));
            if (said.done) socket.write(Buffer.from('not a frame at all'));
          },
          goodbye: () => {},
        });
        socket.on('data', (chunk) => reader.push(chunk)).on('error', () => {});
      });
    });
    expect(await closed).toMatchObject({ code: 'bad_frame', message: expect.stringMatching(/not framed/) });
  });
});

describe('a dialler on a socket', () => {
  it('does not trust a listener that cannot prove the token', async () => {
    const { port } = await listen('');
    await expect(socketTransport('tcp').dial(`tcp://127.0.0.1:${port}`, { token: 'mine', tls: null })).rejects.toMatchObject({
      code: 'unauthorized',
    });
  });

  it('gives up on a listener that hangs up or talks nonsense', async () => {
    const server = net.createServer((socket) => socket.end('SMTP ready\r\n'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as net.AddressInfo;
    await expect(socketTransport('tcp').dial(`tcp://127.0.0.1:${port}`, open)).rejects.toMatchObject({ code: 'bad_frame' });
    server.close();
  });

  it.each([
    'tcp://127.0.0.1',
    'tcp://127.0.0.1:99999',
    'tcp://:1',
    'udp://127.0.0.1:1',
    'uds://relative',
    '127.0.0.1:1',
    `uds:///${'x'.repeat(200)}`,
  ])('refuses the address %s', async (address) => {
    const transport = socketTransport(address.startsWith('uds') ? 'uds' : 'tcp');
    await expect(transport.dial(address, open)).rejects.toMatchObject({ code: 'invalid_request' });
    await expect(transport.listen(address, open, () => {})).rejects.toMatchObject({ code: 'invalid_request' });
  });
});

/** Memory that this process shares with itself. */
function ownMemory(): SharedMemory & { mapped: () => number } {
  const named = new Map<string, ArrayBuffer>();
  let mapped = 0;
  const map = (name: string, memory: ArrayBuffer) => {
    mapped++;
    return { name, memory, unname: () => void named.delete(name), release: () => void mapped-- };
  };
  return {
    create: (bytes) => {
      const name = `region-${named.size}`;
      named.set(name, new ArrayBuffer(bytes));
      return map(name, named.get(name)!);
    },
    open: (name) => {
      if (!named.has(name)) throw new Error('no such region');
      return map(name, named.get(name)!);
    },
    mapped: () => mapped,
  };
}

/** Plays one side of a handshake by hand, and says `last` in one piece with its last frame. Resolves when the other side has closed the connection. */
function shakeHands(socket: net.Socket, handshake: Handshake, last: Uint8Array): Promise<void> {
  const say = ({ value, done }: IteratorResult<Uint8Array | null, Uint8Array | null>) => {
    const parts = [...(value === null ? [] : [framed(value)]), ...(done ? [last] : [])];
    if (parts.length > 0) socket.write(Buffer.concat(parts));
  };
  let over = false;
  const reader = new FrameReader(limits.frameBytesMax, {
    frame: (frame) => {
      if (over) return;
      const said = handshake.next(frame);
      over = said.done ?? false;
      say(said);
    },
    goodbye: () => {},
  });
  say(handshake.next());
  socket.on('data', (chunk) => reader.push(chunk)).on('error', () => {});
  return new Promise((resolve) => socket.on('close', () => resolve()));
}

describe('shared memory', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-offer-'));
  afterAll(() => rmSync(folder, { recursive: true }));
  const ringBytes = 4096;
  const unhandled: unknown[] = [];
  const onUnhandled = (error: unknown) => unhandled.push(error);
  let count = 0;
  let file = '';
  let memory = ownMemory();
  beforeEach(() => {
    file = `${folder}/${count++}.sock`;
    memory = ownMemory();
    process.on('unhandledRejection', onUnhandled);
  });
  afterEach(() => {
    process.off('unhandledRejection', onUnhandled);
    expect(unhandled.splice(0)).toEqual([]);
  });
  const turns = () => new Promise((resolve) => setTimeout(resolve, 20));

  /** What the transport would offer, of the region that it would. */
  function offer(name: string, nonce: Uint8Array): Buffer {
    const head = Buffer.alloc(4);
    head.writeUInt32LE(ringBytes);
    return framed(Buffer.concat([head, nonce, Buffer.from(name)]));
  }

  it.each([
    ['an offer and a goodbye', true, writePrefix(GOODBYE)],
    ['an offer and nonsense', true, Buffer.from('not a frame at all')],
    ['an offer of nothing and a goodbye', false, writePrefix(GOODBYE)],
    ['an offer of nothing and nonsense', false, Buffer.from('not a frame at all')],
  ])('is let go where %s come in one piece', async (_, exists, last) => {
    const accepted: Link[] = [];
    const transport = sharedMemoryTransport(memory, { ringBytes });
    const listener = await transport.listen(`shm://${file}`, open, (link) => accepted.push(link));
    listeners.push(listener);
    const region = memory.create(regionBytes(ringBytes));
    const offered = offer(exists ? region.name : 'nothing', new Uint8Array(REGION_NONCE_BYTES));
    await shakeHands(net.connect(file), diallerHandshake('shm', ''), Buffer.concat([offered, last]));
    await turns();
    region.release();
    expect(memory.mapped()).toBe(0);
    expect(accepted).toEqual([]);
    // The next dialler is none the worse for it.
    await (await transport.dial(listener.address, open)).close();
    expect(accepted.length).toBe(1);
  });

  it('is let go where dialling is given up before the offer is answered', async () => {
    const bounds = { frameBytesMax: limits.handshakeBytesMax, pendingBytesMax: limits.handshakeBytesMax, lingers: false };
    let arrived!: (socket: FramedLink) => void;
    const offered = new Promise<FramedLink>((resolve) => {
      arrived = resolve;
    });
    const listener = await listenOnSocket('shm', `shm://${file}`, bounds, open, (socket) => socket.onFrame(() => arrived(socket)));
    listeners.push(listener);
    const giving = new AbortController();
    const dialling = sharedMemoryTransport(memory, { ringBytes }).dial(listener.address, { ...open, signal: giving.signal });
    dialling.catch(() => {});
    const socket = await offered;
    expect(memory.mapped()).toBe(1);
    giving.abort();
    await expect(dialling).rejects.toMatchObject({ code: 'cancelled' });
    expect(await socket.closed).toMatchObject({ code: 'link_closed' });
    expect(memory.mapped()).toBe(0);
  });

  it('is let go where the listener says goodbye with its welcome', async () => {
    const server = net.createServer((socket) => void shakeHands(socket, listenerHandshake('shm', ''), writePrefix(GOODBYE)));
    await new Promise<void>((resolve) => server.listen(file, resolve));
    const dialling = sharedMemoryTransport(memory, { ringBytes }).dial(`shm://${file}`, open);
    await expect(dialling).rejects.toMatchObject({ code: 'link_closed' });
    await turns();
    expect(memory.mapped()).toBe(0);
    server.close();
  });
});

describe('a gRPC listener', () => {
  it('refuses another protocol version', async () => {
    const listener = await grpcTransport().listen('grpc://127.0.0.1:0', open, () => {});
    listeners.push(listener);
    const client = new grpc.Client(listener.address.slice('grpc://'.length), grpc.credentials.createInsecure());
    const metadata = new grpc.Metadata();
    metadata.set('switchyard-protocol-version', '999');
    const asIs = (b: Buffer) => b;
    const call = client.makeBidiStreamRequest('/switchyard.v1.Data/Exchange', asIs, asIs, metadata);
    const status = await new Promise<grpc.StatusObject>((resolve) => {
      call.on('error', () => {}).on('status', resolve);
    });
    expect(status).toMatchObject({ code: grpc.status.FAILED_PRECONDITION, details: expect.stringContaining('999') });
    client.close();
  });
});

describe('handshake', () => {
  it('never fails but by SwitchyardError, whatever it is told', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 80 }), { maxLength: 3 }),
        fc.boolean(),
        fc.boolean(),
        (frames, listens, wellFormed) => {
          const talker = listens ? listenerHandshake('tcp', 'token') : diallerHandshake('tcp', 'token');
          try {
            talker.next();
            for (const frame of frames)
              if (talker.next(wellFormed ? Buffer.concat([hello().subarray(8, 16), frame]) : frame).done) throw new Error('accepted');
          } catch (error) {
            expect(error).toBeInstanceOf(SwitchyardError);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('what a handshake says', () => {
  /** Both sides up to the frame that `edit` changes: 0 hello, 1 challenge, 2 proof, 3 welcome. Gives what the side that receives it makes of it. */
  function converse(token: string, changed: number, edit: (frame: Buffer) => Uint8Array): unknown {
    const sides = [diallerHandshake('tcp', token), listenerHandshake('tcp', token)];
    sides[1].next();
    let said = sides[0].next().value!;
    for (let turn = 0; ; turn++) {
      const heard = sides[1 - (turn % 2)];
      if (turn < changed) said = heard.next(said).value!;
      else return heard.next(edit(Buffer.from(said))).value;
    }
  }
  const longer = (frame: Buffer) => Buffer.concat([frame, Buffer.of(0)]);
  const shorter = (frame: Buffer) => frame.subarray(0, -1);

  it('is believed as it is', () => {
    for (const token of ['', 'token']) expect(converse(token, 3, (frame) => frame)).toBeNull();
  });

  it.each([
    ['challenge', 1, longer, /challenge of 49 bytes, must be 48/],
    ['challenge', 1, shorter, /challenge of 47 bytes, must be 48/],
    ['proof', 2, longer, /proof of 33 bytes, must be 32/],
    ['proof', 2, shorter, /proof of 31 bytes, must be 32/],
    ['welcome', 3, longer, /welcome of 1 bytes, must be 0/],
  ] as const)('is refused where a %s has another length, with a token or without', (_, turn, edit, message) => {
    for (const token of ['', 'token'])
      expect(() => converse(token, turn, edit)).toThrow(
        expect.objectContaining({ code: 'bad_frame', message: expect.stringMatching(message) }),
      );
  });

  it('proves nothing with the nonce, the proof or the role of somebody else', () => {
    const flip = (at: number) => (frame: Buffer) => {
      frame[at] ^= 1;
      return frame;
    };
    const unauthorized = expect.objectContaining({ code: 'unauthorized' });
    // Behind the 8 bytes of the head: the listener's nonce, which its proof is about too, and that proof.
    for (const at of [8, 24]) expect(() => converse('token', 1, flip(at)), `byte ${at}`).toThrow(unauthorized);
    expect(() => converse('token', 2, flip(8))).toThrow(unauthorized);
    let challenge!: Buffer;
    const mirrored = () => {
      const dialler = diallerHandshake('tcp', 'token');
      const listener = listenerHandshake('tcp', 'token');
      listener.next();
      challenge = Buffer.from(listener.next(dialler.next().value!).value!);
      const proof = Buffer.from(dialler.next(challenge).value!);
      challenge.copy(proof, 8, 24); // the listener's own
      return listener.next(proof);
    };
    expect(mirrored).toThrow(unauthorized);
    // A challenge to another hello.
    const another = diallerHandshake('tcp', 'token');
    another.next();
    expect(() => another.next(challenge)).toThrow(unauthorized);
  });

  it('is a refusal, whatever the version of who refuses', () => {
    const dialler = diallerHandshake('tcp', '');
    dialler.next();
    const refusal = Buffer.from(refusalFrame(new SwitchyardError('version_mismatch', 'too old for me')));
    refusal.writeUInt16LE(PROTOCOL_VERSION + 1, 4);
    expect(() => dialler.next(refusal)).toThrow(expect.objectContaining({ code: 'version_mismatch', message: 'too old for me' }));
  });

  it('is read as a refusal only where it is one', () => {
    const refusal = Buffer.from(refusalFrame(new SwitchyardError('queue_full', 'no room')));
    expect(refusalOf(refusal)).toMatchObject({ code: 'queue_full', message: 'no room' });
    const unknown = Buffer.from(refusal);
    unknown.writeUInt32LE(1000, 8);
    expect(refusalOf(unknown)).toMatchObject({ code: 'internal', message: 'no room' });
    const welcome = Buffer.from(refusal);
    welcome[6] = 4;
    const foreign = Buffer.from(refusal);
    foreign[0] ^= 1;
    for (const bytes of [welcome, foreign, refusal.subarray(0, 11), Buffer.alloc(0)])
      expect(refusalOf(bytes)).toMatchObject({ code: 'bad_frame', message: expect.stringMatching(/where a refusal was due/) });
    const dialler = diallerHandshake('tcp', '');
    dialler.next();
    expect(() => dialler.next(refusal.subarray(0, 11))).toThrow(expect.objectContaining({ code: 'bad_frame' }));
  });

  it('fits a handshake frame, however long the reason', () => {
    const frame = refusalFrame(new SwitchyardError('internal', '☂'.repeat(10_000)));
    expect(frame.length).toBeLessThanOrEqual(limits.handshakeBytesMax);
    expect(refusalOf(frame).message).toMatch(/^☂{50,}$/);
  });
});

describe('FrameReader', () => {
  it('finds the same frames however the bytes are cut, and whichever way they are received', () => {
    const bodies = fc.array(fc.integer({ min: 1, max: 3000 }), { maxLength: 8 });
    fc.assert(
      fc.property(
        bodies,
        fc.array(fc.integer({ min: 1, max: 700 }), { minLength: 1, maxLength: 20 }),
        fc.boolean(),
        (lengths, cuts, inPlace) => {
          const sent = lengths.map((length, i) => new Uint8Array(length).fill(i + 1));
          const stream = Buffer.concat([...sent.map(framed), writePrefix(GOODBYE), Buffer.from('ignored')]);
          const got: Uint8Array[] = [];
          let goodbyes = 0;
          const reader = new FrameReader(4000, { frame: (f) => got.push(f), goodbye: () => goodbyes++ });
          for (let at = 0, turn = 0; at < stream.length; turn++) {
            let taken = Math.min(cuts[turn % cuts.length], stream.length - at);
            if (inPlace) {
              const target = reader.target();
              taken = Math.min(taken, target.length);
              target.set(stream.subarray(at, at + taken));
              reader.received(taken);
            } else reader.push(stream.subarray(at, at + taken));
            at += taken;
          }
          expect(got.map((f) => Array.from(f))).toEqual(sent.map((f) => Array.from(f)));
          expect(goodbyes).toBe(1);
        },
      ),
      { numRuns: 200 },
    );
  });
});
