import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import protobuf from 'protobufjs';
import { describe, expect, it } from 'vitest';
import { controlSchemas, fromWorkerSchema, toWorkerSchema } from '../src/control-schema.ts';
import { limits, SwitchyardError } from '../src/index.ts';
import { decodeUnion, encodeUnion, type FieldKind, type MessageSchema, type UnionSchema } from '../src/message-codec.ts';

// protobufjs, reading the .proto itself, is the oracle of the codec and of the schema.
const root = protobuf.parse(readFileSync(new URL('../protos/control.proto', import.meta.url), 'utf8'), { keepCase: false }).root;
const lookup = (name: string) => root.lookupType(`switchyard.v1.${name}`);

type Union = UnionSchema<{ type: string }>;
const unions = [fromWorkerSchema, toWorkerSchema] as unknown as Union[];

function wireKind(kind: FieldKind): { type: string; repeated: boolean } {
  if (typeof kind === 'string') return { type: kind.replace('[]', '').replace('u64', 'uint64'), repeated: kind.endsWith('[]') };
  return Array.isArray(kind) ? { type: kind[0].name, repeated: true } : { type: (kind as MessageSchema).name, repeated: false };
}

describe('control schema', () => {
  it.each(controlSchemas.map((s) => [s.name, s] as const))('says of %s what control.proto says', (name, schema) => {
    const ours = schema.fields.map((f) => ({ name: f.name, number: f.number, ...wireKind(f.kind) }));
    const theirs = lookup(name).fieldsArray.map((f) => ({
      name: f.name,
      number: f.id,
      type: f.type.split('.').at(-1)!,
      repeated: f.repeated,
    }));
    const byNumber = (a: { number: number }, b: { number: number }) => a.number - b.number;
    expect(ours.sort(byNumber)).toEqual(theirs.sort(byNumber));
  });

  it.each(unions.map((u) => [u.name, u] as const))('has the members of %s', (name, union) => {
    const ours = Object.entries(union.members).map(([member, [number, schema]]) => `${member} = ${number} ${schema.name}`);
    expect(ours.sort()).toEqual(
      lookup(name)
        .fieldsArray.map((f) => `${f.name} = ${f.id} ${f.type.split('.').at(-1)}`)
        .sort(),
    );
  });

  it('knows every message of control.proto', () => {
    const theirs = (root.lookup('switchyard.v1') as protobuf.Namespace).nestedArray
      .filter((n) => n instanceof protobuf.Type)
      .map((t) => t.name);
    expect([...controlSchemas, ...unions].map((s) => s.name).sort()).toEqual(theirs.sort());
  });
});

const uint32 = fc.oneof(fc.nat(300), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
const uint64 = fc.oneof(fc.nat(300), fc.maxSafeNat());
const values: Record<string, fc.Arbitrary<unknown>> = {
  uint32,
  uint64,
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  bool: fc.boolean(),
  double: fc.double(),
  float: fc.float(),
  string: fc.string({ unit: 'grapheme', maxLength: 40 }),
  bytes: fc.uint8Array({ maxLength: 200 }),
};

function arbitraryField(kind: FieldKind): fc.Arbitrary<unknown> {
  if (typeof kind === 'string') return kind.endsWith('[]') ? fc.array(values[kind.slice(0, -2)], { maxLength: 8 }) : values[kind];
  return Array.isArray(kind) ? fc.array(arbitraryMessage(kind[0]), { maxLength: 3 }) : arbitraryMessage(kind as MessageSchema);
}

function arbitraryMessage(schema: MessageSchema): fc.Arbitrary<Record<string, unknown>> {
  return fc.record(Object.fromEntries(schema.fields.map((f) => [f.name, arbitraryField(f.kind)])));
}

const arbitraryUnion = (union: Union) =>
  fc.oneof(...Object.entries(union.members).map(([type, [, schema]]) => arbitraryMessage(schema).map((m) => ({ type, ...m }))));

/** Our message as protobufjs names it: `type` outside. Bigints are cut to what a number holds, which is all that protobufjs has without an optional package. */
function forOracle(value: { type: string }): Record<string, unknown> {
  const { type, ...rest } = value;
  const walk = (v: unknown): unknown => {
    if (typeof v === 'bigint') return Number(BigInt.asUintN(53, v));
    if (Array.isArray(v)) return v.map(walk);
    if (v instanceof Uint8Array || typeof v !== 'object' || v === null) return v;
    return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, walk(x)]));
  };
  return { [type]: walk(rest) };
}

describe.each(unions.map((u) => [u.name, u] as const))('%s on the wire', (name, union) => {
  it('comes back as it went', () => {
    fc.assert(
      fc.property(arbitraryUnion(union), (value) => {
        const back = decodeUnion(union, encodeUnion(union, value));
        expect(plain(back)).toEqual(plain(value));
      }),
      { numRuns: 400 },
    );
  });

  it('is what protobufjs reads, and reads what protobufjs writes', () => {
    const type = lookup(name);
    fc.assert(
      fc.property(arbitraryUnion(union), (value) => {
        const theirs = type.encode(type.fromObject(forOracle(value))).finish();
        const small = cut53(value) as { type: string };
        expect(plain(decodeUnion(union, theirs))).toEqual(plain(small));
        const options = { longs: Number, bytes: Array, defaults: true };
        expect(type.toObject(type.decode(encodeUnion(union, small)), options)).toEqual(type.toObject(type.decode(theirs), options));
      }),
      { numRuns: 400 },
    );
  });

  it('fails by SwitchyardError only, whatever arrives', () => {
    const corrupted = fc
      .tuple(arbitraryUnion(union), fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), fc.nat())
      .map(([value, edits, cut]) => {
        const bytes = Uint8Array.from(encodeUnion(union, value));
        for (const [at, byte] of edits) bytes[at % bytes.length] = byte;
        return bytes.subarray(0, cut % 3 === 0 ? cut % bytes.length : bytes.length);
      });
    fc.assert(
      fc.property(fc.oneof(corrupted, fc.uint8Array({ maxLength: 300 })), (bytes) => {
        try {
          decodeUnion(union, bytes);
        } catch (error) {
          expect(error).toBeInstanceOf(SwitchyardError);
          expect((error as SwitchyardError).code).toBe('bad_frame');
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('message codec', () => {
  const submit = { type: 'submit', ...(toWorkerSchema.members.submit[1].empty() as object) } as never;

  it.each([
    ['a negative id', { request: -1 }],
    ['a fraction', { request: 1.5 }],
    ['an id beyond 2^53', { request: 2 ** 53 }],
    ['a token beyond 32 bits', { prompt: [2 ** 32] }],
    ['a count that is NaN', { maxTokens: Number.NaN }],
  ])('refuses to send %s', (_, fields) => {
    expect(() => encodeUnion(toWorkerSchema, { ...(submit as object), ...fields } as never)).toThrow(SwitchyardError);
  });

  it('writes half a surrogate pair as what is no character, which every reader takes', () => {
    const said = { ...(submit as object), domain: 'a\ud800', tenant: '\udc00' } as never;
    expect(decodeUnion(toWorkerSchema, encodeUnion(toWorkerSchema, said))).toMatchObject({ domain: 'a\ufffd', tenant: '\ufffd' });
  });

  it('refuses a 64-bit id that a number cannot hold', () => {
    const type = lookup('ToWorker');
    const bytes = type.encode(type.fromObject({ cancel: { request: '9007199254740992' } })).finish();
    expect(() => decodeUnion(toWorkerSchema, bytes)).toThrow(/2\^53/);
  });

  it('writes all 64 bits of a seed', () => {
    const hash = { type: 'ready', ...fromWorkerSchema.members.ready[1].empty(), weightsHash: 2n ** 64n - 1n } as never;
    const bytes = encodeUnion(fromWorkerSchema, hash);
    expect(bytes.toString('hex')).toBe('1a0b20ffffffffffffffffff01');
    expect(decodeUnion(fromWorkerSchema, bytes)).toEqual(hash);
  });

  it('skips fields of a later version', () => {
    const writer = protobuf.Writer.create();
    writer
      .uint32((5 << 3) | 2)
      .fork()
      .uint32((1 << 3) | 0)
      .uint32(9)
      .uint32((77 << 3) | 2)
      .string('from the future')
      .ldelim();
    expect(decodeUnion(toWorkerSchema, writer.finish())).toEqual({ type: 'cancel', request: 9 });
  });

  it.each([
    ['beside each other', 1, 0],
    ['inside each other', 2, 4],
  ])('makes no more messages %s than a real one has', (_how, made, inner) => {
    // Tokens, field 9: bills that say nothing, or only that they have an empty `routing`. Two bytes of the wire become an object of hundreds.
    const entry = inner === 0 ? [(9 << 3) | 2, 0] : [(9 << 3) | 2, 2, (7 << 3) | 2, 0];
    const tokens = (count: number) => {
      const body = new Uint8Array(count * entry.length);
      for (let i = 0; i < count; i++) body.set(entry, i * entry.length);
      return protobuf.Writer.create()
        .uint32((4 << 3) | 2)
        .bytes(body)
        .finish();
    };
    const most = Math.floor(limits.nestedMessagesMax / made);
    expect(() => decodeUnion(fromWorkerSchema, tokens(most + 1))).toThrow(`the limit is ${limits.nestedMessagesMax}`);
    // Of the one before nothing counts any more.
    expect(decodeUnion(fromWorkerSchema, tokens(most))).toMatchObject({ type: 'tokens', traffic: { length: most } });
  });

  it('takes columns from typed arrays', () => {
    const sent = { ...(submit as object), prompt: Int32Array.of(1, 2, 3) } as never;
    expect(decodeUnion(toWorkerSchema, encodeUnion(toWorkerSchema, sent))).toMatchObject({ prompt: [1, 2, 3] });
  });
});

function cut53(value: unknown): unknown {
  if (typeof value === 'bigint') return BigInt.asUintN(53, value);
  if (Array.isArray(value)) return value.map(cut53);
  if (value instanceof Uint8Array || typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, cut53(v)]));
}

/** Byte arrays of any kind as plain lists, -0 kept. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Array.from(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, plain(v)]));
  return value;
}
