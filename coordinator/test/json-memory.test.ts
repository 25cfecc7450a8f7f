import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { readJsonBody } from '../src/api/body.ts';
import { jsonValueBytes } from '../src/api/json-memory.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const bytesOf = (json: string) => jsonValueBytes(Buffer.from(json));

describe('what the values of a JSON text take', () => {
  const many = 200_000;
  const list = (value: (i: number) => string) => `[${Array.from({ length: many }, (_, i) => value(i)).join()}]`;
  it.each([
    ['arrays', list(() => '[]')],
    ['objects', list(() => '{}')],
    ['arrays in arrays', '['.repeat(many) + ']'.repeat(many)],
    ['objects in objects', `${'{"":'.repeat(many)}1${'}'.repeat(many)}`],
    ['keys of their own', list((i) => `{"${i.toString(36)}":1}`)],
    ['keys of one object', `{${Array.from({ length: many }, (_, i) => `"${i.toString(36)}":1`).join()}}`],
    ['keys that are indices', `{${Array.from({ length: many }, (_, i) => `"${20 * i}":1`).join()}}`],
    ['integers', list(() => '1')],
    ['fractions', list((i) => (i === 0 ? '""' : '0.1'))],
    ['strings of one character', list((i) => `"${String.fromCharCode(97 + (i % 26))}"`)],
  ])('is no more than is said of %s', (_, json) => {
    const said = bytesOf(json) + json.length;
    collectGarbage();
    const before = process.memoryUsage().heapUsed;
    const value: unknown = JSON.parse(json);
    collectGarbage();
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(said + 1_000_000);
    expect(value).toBeTypeOf('object');
  });

  it('is nothing of what stands in strings', () => {
    expect(bytesOf('"[{,:"')).toBe(0);
    expect(bytesOf(String.raw`"\"[{,:\\\"["`)).toBe(0);
    expect(bytesOf(String.raw`["\\",1]`)).toBe(bytesOf('["",1]'));
    expect(bytesOf('["",1]')).toBe(64 + 32);
    expect(bytesOf('{"[":{}}')).toBe(2 * 64 + 128);
    for (const noJson of ['', '"', '"\\', '\\"[', '"[']) expect(bytesOf(noJson)).toBe(0);
  });
});

describe('a body of many small values', () => {
  const read = (json: string, memory: LeasedMemory) => {
    const request = Object.assign(Readable.from([Buffer.from(json)], { objectMode: false }), {
      headers: { 'content-type': 'application/json' },
    });
    return readJsonBody({ request: request as unknown as IncomingMessage, body: memory.lease('the bytes and values of its body') }, 1_000);
  };
  const json = `{"a":[${'[],'.repeat(100)}0]}`;
  const bytes = json.length + 102 * 64 + 128 + 100 * 32;

  it('is refused while others leave no room for them, and where they never had any', async () => {
    const memory = LeasedMemory.ofBodies(bytes + 10);
    const other = memory.lease();
    other.hold(11);
    await expect(read(json, memory)).rejects.toMatchObject({
      code: 'queue_full',
      message: expect.stringContaining(`the bytes and values of its body take ${bytes} bytes`),
    });
    other.end();
    await expect(read(json, LeasedMemory.ofBodies(bytes - 1))).rejects.toMatchObject({
      code: 'body_too_large',
      message: `the body with the values of its JSON takes ${bytes} bytes; the limit is ${bytes - 1}`,
    });
    expect(await read(json, LeasedMemory.ofBodies(bytes))).toEqual(JSON.parse(json));
  });
});
