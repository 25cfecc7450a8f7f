// Worker processes on this machine, driven over the control plane as a coordinator does it, without one.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { contiguousPlan, serveControl } from '../../proto/dist/index.js';
import { atEnd } from '../leftovers.mjs';
import { median } from '../median.mjs';
import { warmUp } from '../warm-up.mjs';
import { request } from './request.mjs';

const ownProgram = fileURLToPath(new URL('../../worker/dist/main.js', import.meta.url));

/** The end of what a worker has said, for whoever asks why it ended. */
const saidCharsMax = 2000;

/**
 * @param program of a worker: of this checkout, or of another
 * @throws Error when a worker ends or fails, here and in every run: who waited for it would wait for ever
 */
export async function startCluster(dir, model, { workers, nodes, transport }, program = ownProgram) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'switchyard-engine-'));
  const children = [];
  const endNow = () => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  };
  const ended = atEnd(endNow);
  let fail;
  const failure = new Promise((_, reject) => {
    fail = (why) => reject(new Error(why));
  });
  // Told to whoever waits next, if nobody does.
  failure.catch(() => {});
  const unlessFailed = (outcome) => Promise.race([outcome, failure]);
  const streams = [];
  let allHere;
  const here = new Promise((resolve) => {
    allHere = resolve;
  });
  const control = await serveControl(`unix:${folder}/control.sock`, { token: '', tls: null }, (stream) => {
    stream.onMessage((message) => {
      if (message.type === 'hello') {
        stream.hello = message;
        streams.push(stream);
        if (streams.length === workers) allHere();
      }
      if (message.type === 'failed') fail(`${stream.hello?.name ?? 'a worker'}: ${message.message}`);
      stream.heard?.(message);
    });
  });
  for (let w = 0; w < workers; w++) {
    const data = ['uds', 'shm'].includes(transport) ? `${transport}://${folder}/w${w}.${transport}` : `${transport}://127.0.0.1:0`;
    const node = `n${Math.floor((w * nodes) / workers)}`;
    const args = ['--coordinator', `unix:${folder}/control.sock`, '--name', `w${w}`, '--node', node, '--supervised', '--data', data];
    const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => {
      said = (said + text).slice(-saidCharsMax);
    });
    child.once('close', (status, signal) => fail(`w${w} ended with ${signal ?? `status ${status}`}: ${said}`));
    children.push(child);
  }
  await unlessFailed(here);
  streams.sort((a, b) => (a.hello.name < b.hello.name ? -1 : 1));
  const plan = contiguousPlan(
    { type: model.type, moeLayers: model.moeLayers, experts: model.experts },
    streams.map(({ hello }) => ({ name: hello.name, node: Number(hello.node.slice(1)) })),
  );
  const engine = {
    numericClass: 'auto',
    expertDtype: 'stored',
    denseDtype: 'stored',
    sumMode: 'exact',
    maxContext: 0,
    kvBlocks: 0,
    kvBytes: 64e6,
    maxBatchRows: 512,
    maxSequences: 64,
    prefixCache: false,
    rowDeadlineMs: 30_000,
    replayRouting: '',
    lossy: '',
    draftMax: 0,
  };
  const next = (stream, type) =>
    unlessFailed(
      new Promise((resolve) => {
        stream.heard = (message) => {
          if (message.type === type) resolve(message);
        };
      }),
    );
  const ready = streams.map((stream) => next(stream, 'ready'));
  for (const [worker, stream] of streams.entries()) {
    stream.send({ type: 'assign', worker, epoch: 1, modelDir: dir, plan: Buffer.from(JSON.stringify(plan)), engine });
  }
  await Promise.all(ready);
  const peers = streams.map(({ hello }, worker) => ({ worker, name: hello.name, node: hello.node, dataAddresses: hello.dataAddresses }));
  for (const stream of streams) stream.send({ type: 'peers', epoch: 1, peers });
  const cluster = {
    children,
    /** Until it gets no faster; rounds below zero, which are measured nowhere. */
    async warm() {
      let round = 0;
      await warmUp(async () => 1 / (await cluster.run(8, 16, 128, [--round])));
    },
    /** Seconds until `batch` requests of this draw (request.mjs), spread over the homes, have produced `produce` tokens each. */
    async run(batch, prompt, produce, draw) {
      const startedMs = performance.now();
      await unlessFailed(
        new Promise((resolve) => {
          let left = batch;
          for (const stream of streams) {
            stream.heard = (message) => {
              if (message.type !== 'tokens') return;
              if (message.errors.length > 0) fail(message.errors[0].message);
              for (const finish of Array.from(message.finish)) if (finish !== 0 && --left === 0) resolve();
            };
          }
          for (let i = 0; i < batch; i++)
            streams[i % workers].send({ type: 'submit', ...request(model.vocab, prompt, produce, [...draw, i]) });
        }),
      );
      return (performance.now() - startedMs) / 1000;
    },
    async stats() {
      return Promise.all(streams.map((stream) => next(stream, 'stats')));
    },
    async close() {
      const gone = children.map((child) => new Promise((resolve) => child.once('exit', resolve)));
      for (const child of children) child.kill('SIGTERM');
      await Promise.all(gone);
      await control.close();
      rmSync(folder, { recursive: true });
      ended();
    },
  };
  return cluster;
}

/** What a cell added to the counters of all workers. */
function difference(before, after) {
  const sum = (stats, value) => stats.reduce((total, one) => total + value(one), 0);
  const added = (value) => sum(after, value) - sum(before, value);
  const links = (one, value) => one.links.reduce((total, link) => total + value(link), 0);
  return {
    steps: added((s) => s.steps),
    bytes: added((s) => links(s, (l) => l.bytesSent + l.bytesReceived)),
    tokens: added((s) => s.promptTokens + s.generatedTokens),
    remoteNodesPerRow: added((s) => s.remoteNodesVisited) / added((s) => s.rowsDispatched),
    roundTripSeconds: added((s) => links(s, (l) => l.roundTripSeconds)) / (added((s) => links(s, (l) => l.roundTrips)) || 1),
    seconds: [0, 1, 2, 3, 4, 5].map((activity) => added((s) => s.seconds[activity])),
  };
}

/** Layouts one after another: all at once would be nineteen workers. So only what one layout's row says of itself is of one moment. */
export async function measureClusters(dir, model, layouts, rounds) {
  const results = [];
  for (const layout of layouts) {
    const cluster = await startCluster(dir, model, layout);
    await cluster.warm();
    for (const [cell, { batch, produce }] of [
      { batch: 1, produce: 128 },
      { batch: 16, produce: 64 },
    ].entries()) {
      const before = await cluster.stats();
      const speeds = [];
      for (let round = 0; round < rounds; round++) speeds.push((batch * produce) / (await cluster.run(batch, 16, produce, [round, cell])));
      const { steps, bytes, tokens, seconds, ...rest } = difference(before, await cluster.stats());
      results.push({
        ...layout,
        batch,
        tokensPerSecond: median(speeds),
        bytesPerToken: bytes / tokens,
        ...rest,
        microsecondsPerStep: seconds.map((s) => (s * 1e6) / steps),
      });
      process.stderr.write(`${layout.workers} workers over ${layout.transport}, batch ${batch}\n`);
    }
    await cluster.close();
  }
  return results;
}
