import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { RoutingTrace } from '@switchyard/placement';
import { NO_EXPERT, openTrace } from '@switchyard/placement';
import { describe, expect, it } from 'vitest';
import { ApiClient } from '../src/api/client.ts';
import { traceConvertCommand } from '../src/commands/trace-convert.ts';
import { writeConverted } from '../src/trace/converted-files.ts';
import { earlierRecording, moveRecording, removeRest } from '../src/trace/recording.ts';
import { endRecording, watchRecording } from '../src/trace/recording-watch.ts';
import { summariseTrace } from '../src/trace/trace-summary.ts';

/** Two layers, four experts, top-1; sequence 0 uses expert 0 alone, sequence 1 experts 2 and 3 in turn. */
const trace: RoutingTrace = {
  model: 'tiny',
  moeLayers: [1, 3],
  experts: 4,
  topK: 1,
  tokens: 6,
  ids: Uint16Array.from([0, 0, 0, 0, 2, 3, 3, 2, 2, 3, 3, 2]),
  sequenceOf: Uint32Array.from([0, 0, 1, 1, 1, 1]),
  generated: Uint8Array.from([0, 1, 0, 0, 1, 1]),
  sequences: [
    { sequence: 0, domain: 'code', tokens: 2 },
    { sequence: 1, domain: 'novels', tokens: 4 },
  ],
};

/** The layout of proto/src/trace.ts, by hand. */
function encode({ model, moeLayers, experts, topK, tokens, ids, sequenceOf, generated }: RoutingTrace): Buffer {
  const header = { format: 'switchyard-trace', version: 1, model, moeLayers, experts, topK, createdAt: '2026-11-23T00:00:00Z' };
  const position = [0, 0];
  const records = Array.from({ length: tokens }, (_, t) => {
    const record = Buffer.alloc(9 + 2);
    record.writeUInt32LE(sequenceOf[t], 0);
    record.writeUInt32LE(position[sequenceOf[t]]++, 4);
    record[8] = generated[t];
    record.set(ids.subarray(2 * t, 2 * t + 2), 9);
    return record;
  });
  return Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...records]);
}

describe('trace summary', () => {
  it('counts what the file holds', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const file = path.join(folder, 'a.trace');
    writeFileSync(file, encode(trace));
    writeFileSync(`${file}.sequences.jsonl`, trace.sequences.map((s) => `${JSON.stringify(s)}\n`).join(''));
    const opened = await openTrace(file);
    rmSync(folder, { recursive: true });
    expect(opened.kind === 'routing' && summariseTrace(opened.trace)).toMatchObject({
      model: 'tiny',
      layers: 2,
      experts: 4,
      topK: 1,
      tokens: 6,
      wholeTokens: 6,
      generatedTokens: 3,
      sequences: 2,
      domains: [
        { domain: 'novels', sequences: 1, tokens: 4 },
        { domain: 'code', sequences: 1, tokens: 2 },
      ],
      // Six rows over four experts are 1.5 each; the busiest has two.
      imbalance: { mean: 2 / 1.5, max: 2 / 1.5, layer: 1 },
      domainDistance: 1,
    });
  });

  it('says nothing about distance when there is one domain', () => {
    expect(summariseTrace({ ...trace, sequences: trace.sequences.map((s) => ({ ...s, domain: null })) }).domainDistance).toBeNull();
  });
});

describe('a recording', () => {
  it('takes the place of an earlier one as a whole', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const write = (name: string, text: string) => writeFileSync(path.join(folder, name), text);
    const parts = ['a.trace', 'a.trace.sequences.jsonl', 'a.trace.1', 'a.trace.1.sequences.jsonl', 'a.trace.2'];
    const others = ['a.trace.bak', 'a.trace.01', 'a.trace2', 'b.a.trace'];
    for (const name of [...parts, ...others]) write(name, 'old');
    const out = path.join(folder, 'a.trace');
    const earlier = earlierRecording(out);
    expect(earlier.map((file) => path.basename(file)).sort()).toEqual([...parts].sort());
    write('new-0', 'new');
    write('new-1', 'new');
    write('new-1.sequences.jsonl', 'new');
    const files = moveRecording(
      ['new-0', 'new-1'].map((name) => path.join(folder, name)),
      out,
    );
    removeRest(earlier, files);
    const now = ['a.trace', 'a.trace.1', 'a.trace.1.sequences.jsonl'];
    expect(readdirSync(folder).sort()).toEqual([...now, ...others].sort());
    for (const name of now) expect(readFileSync(path.join(folder, name), 'utf8')).toBe('new');
    rmSync(folder, { recursive: true });
  });
});

describe('a recording that cannot be moved', () => {
  it('stays where it is, as what it would have replaced does, and says where', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const [out, first, gone] = ['a.trace', 'new-0', 'new-1'].map((name) => path.join(folder, name));
    writeFileSync(out, 'old');
    writeFileSync(first, 'new');
    writeFileSync(`${first}.sequences.jsonl`, 'new');
    const before = readdirSync(folder).sort();
    expect(() => moveRecording([first, gone], out)).toThrow(/^--out .*a\.trace: ENOENT.*; what was recorded is in .*new-0, .*new-1$/);
    expect(readdirSync(folder).sort()).toEqual(before);
    expect(readFileSync(out, 'utf8')).toBe('old');
    rmSync(folder, { recursive: true });
  });
});

describe('a recording whose server', () => {
  const status = { on: true, file: '/t/a', files: ['/t/a-0000.trace', '/t/a-0001.trace'], sequences: 1, rows: 2, droppedRows: 3 };
  it.each([
    [
      'can write no more ends, with the reason',
      'ENOSPC: no space left on device',
      /can record no more: ENOSPC.*a-0000\.trace, \/t\/a-0001\.trace/,
    ],
    ['goes on goes on until it is interrupted', null, null],
  ])('%s', async (_, failure, message) => {
    const asked: string[] = [];
    const interrupt = new AbortController();
    const server = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      if (failure === null) setImmediate(() => interrupt.abort());
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ format: 'switchyard-status', trace: { ...status, failure } }));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const admin = new ApiClient({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, apiKey: null, timeoutMs: 10_000 });
    const watched = watchRecording(admin, { ...status, files: ['/t/a-0000.trace'], failure: null }, interrupt.signal);
    if (message === null) await watched;
    else {
      await expect(watched).rejects.toThrow(message);
      expect(asked.at(-1)).toBe('POST /v1/switchyard/trace');
    }
    admin.close();
    server.close();
  });
});

describe('a recording that is to end', () => {
  it('says where it lies when its server is gone by then', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    const admin = new ApiClient({ url: `http://127.0.0.1:${port}`, apiKey: null, timeoutMs: 10_000 });
    const counts = { sequences: 1, rows: 2, droppedRows: 0, failure: null };
    const started = { on: true, file: '/t/a', files: ['/t/a-0000.trace'], ...counts };
    const last = await watchRecording(admin, started, AbortSignal.abort());
    await expect(endRecording(admin, last)).rejects.toThrow(
      /; what was recorded until then is in \/t\/a-0000\.trace on the server's machine$/,
    );
    admin.close();
  });
});

describe('a converted trace', () => {
  it('replaces neither the trace that is read nor what lies beside it', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const trace = path.join(folder, 't');
    const beside = `${trace}.sequences.jsonl`;
    for (const file of [trace, beside]) writeFileSync(file, 'there');
    for (const [from, to] of [
      [trace, trace],
      [trace, beside],
      [beside, trace],
    ])
      await expect(traceConvertCommand().parseAsync([from, to, '--force'], { from: 'user' })).rejects.toMatchObject({
        message: expect.stringContaining('it is the trace that is read, or lies beside it'),
        status: 2,
      });
    for (const file of [trace, beside]) expect(readFileSync(file, 'utf8')).toBe('there');
    rmSync(folder, { recursive: true });
  });

  it('takes the place of an earlier one only when it is whole', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const to = path.join(folder, 'a.trace');
    const beside = `${to}.sequences.jsonl`;
    for (const file of [to, beside]) writeFileSync(file, 'old');
    // The last token lacks a choice, which is seen after others have been written.
    const tokens = 3000;
    const long: RoutingTrace = {
      ...trace,
      tokens,
      ids: new Uint16Array(2 * tokens).fill(NO_EXPERT, -1),
      sequenceOf: new Uint32Array(tokens),
      generated: new Uint8Array(tokens),
      sequences: [{ sequence: 0, domain: null, tokens }],
    };
    await expect(writeConverted(long, to, 'now')).rejects.toThrow(/token 2999: this format has a fixed top-k/);
    await expect(writeConverted(trace, to, 'now', AbortSignal.abort())).rejects.toThrow(/abort/);
    expect(readdirSync(folder).sort()).toEqual(['a.trace', 'a.trace.sequences.jsonl']);
    for (const file of [to, beside]) expect(readFileSync(file, 'utf8')).toBe('old');
    expect(await writeConverted(trace, to, 'now')).toEqual([to, beside]);
    expect(await openTrace(to)).toEqual({ kind: 'routing', trace });
    expect(readdirSync(folder)).toHaveLength(2);
    rmSync(folder, { recursive: true });
  });
});
