// One worker in this process, exact sums against fast ones: engines take turns within each round, so that both saw the same machine.
import { native } from '../../native/dist/index.js';
import { Counters, Engine, Exchange, loadModel, TimeSplit } from '../../worker/dist/index.js';
import { median } from '../median.mjs';
import { request } from './request.mjs';

const MAX_ROWS = 512;

async function createEngine(dir, sum, threads) {
  const model = await loadModel({
    dir,
    hosted: null,
    numericClass: { activations: 'auto', experts: 'stored', dense: 'stored', sum },
    device: { backend: 'cpu', isa: 'auto', threads, cpus: null },
    maxBatchRows: MAX_ROWS,
    laneRows: null,
    maxSequences: 64,
    maxLogitRows: 64,
    maxContext: 0,
    kvBlocks: 0,
    kvBytes: 128e6,
    onProgress: () => {},
    signal: null,
  });
  const { shape } = model;
  const plan = {
    workers: [{ name: 'w0', node: 0 }],
    model: { moeLayers: shape.moeLayers },
    replicas: shape.moeLayers.map(() => Array.from({ length: shape.experts }, () => [0])),
  };
  const counters = new Counters(model.moe.length, shape.experts);
  const times = new TimeSplit();
  const exchange = new Exchange({
    native,
    model,
    plan,
    worker: 0,
    epoch: 0,
    maxRows: MAX_ROWS,
    rowDeadlineMs: 30_000,
    counters,
    times,
    dial: null,
  });
  let ended = () => {};
  const engine = new Engine({
    model,
    exchanges: exchange.homes,
    connecting: () => exchange.connecting,
    counters,
    times,
    visits: null,
    maxBatchRows: MAX_ROWS,
    maxSequences: 64,
    maxLogitRows: 64,
    prefixCache: false,
    draftMax: 0,
    replay: null,
    onTokens: ({ finish, errors }) => {
      if (errors.length > 0) throw new Error(errors[0].message);
      for (const f of finish) if (f !== 0) ended();
    },
    onTrace: () => {},
  });
  /** Seconds until `batch` requests of this draw (request.mjs) of `prompt` tokens have produced `produce` each, and where they went. */
  const run = async (batch, prompt, produce, draw) => {
    const before = Array.from(times.seconds);
    const stepsBefore = counters.steps;
    const startedMs = performance.now();
    await new Promise((resolve) => {
      let left = batch;
      ended = () => {
        if (--left === 0) resolve();
      };
      for (let i = 0; i < batch; i++) engine.submit(request(shape.vocab, prompt, produce, [...draw, i]));
    });
    const seconds = (performance.now() - startedMs) / 1000;
    return { seconds, steps: counters.steps - stepsBefore, split: Array.from(times.seconds, (s, i) => s - before[i]) };
  };
  return { run, close: () => model.close() };
}

const cells = [
  { name: 'decode, batch 1', batch: 1, prompt: 16, produce: 256 },
  { name: 'decode, batch 8', batch: 8, prompt: 16, produce: 128 },
  { name: 'decode, batch 32', batch: 32, prompt: 16, produce: 64 },
  { name: 'prefill 512', batch: 1, prompt: 512, produce: 1 },
];

export async function measureOneProcess(dir, threads, rounds) {
  const engines = { exact: await createEngine(dir, 'exact', threads), fast: await createEngine(dir, 'fast', threads) };
  const results = cells.map((cell) => ({ ...cell, exact: [], fast: [], ratio: [], outsideKernels: [] }));
  for (let round = -1; round < rounds; round++) {
    for (const [number, cell] of results.entries()) {
      const taken = {};
      const order = Object.entries(engines);
      for (const [sum, engine] of round % 2 === 0 ? order : order.reverse()) {
        // Prompts count where one token is produced, produced tokens elsewhere.
        const repeats = cell.produce === 1 ? 8 : 1;
        const tokens = cell.produce === 1 ? cell.prompt : cell.batch * cell.produce;
        let best = null;
        for (let i = 0; i < repeats; i++) {
          const one = await engine.run(cell.batch, cell.prompt, cell.produce, [round, number, i]);
          if (best === null || one.seconds < best.seconds) best = one;
        }
        taken[sum] = tokens / best.seconds;
        // The first round warms up.
        if (round >= 0 && sum === 'exact') cell.outsideKernels.push((best.seconds - best.split[0] - best.split[2]) / best.steps);
      }
      if (round < 0) continue;
      cell.exact.push(taken.exact);
      cell.fast.push(taken.fast);
      cell.ratio.push(taken.exact / taken.fast);
      process.stderr.write(`one process, round ${round + 1}/${rounds}: ${cell.name}\n`);
    }
  }
  for (const engine of Object.values(engines)) engine.close();
  return results.map(({ name, exact, fast, ratio, outsideKernels }) => ({
    name,
    exactTokensPerSecond: median(exact),
    fastTokensPerSecond: median(fast),
    exactOverFast: median(ratio),
    outsideKernelsSecondsPerStep: median(outsideKernels),
  }));
}
