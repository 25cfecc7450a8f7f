// What is measured: two models, each with sequences to plan from and others, held out, to measure on.
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { holdOut, openTrace, writeSwitchyardTrace } from '../../placement/dist/index.js';
import { contiguousPlan } from '../../proto/dist/index.js';
import { startCluster } from '../../test/hosts/bed/cluster.mjs';
import { inspectModel } from '../../worker/dist/index.js';
import { writeRandomModel } from '../peers/random-model.mjs';

const root = path.resolve(path.dirname(new URL(import.meta.url).pathname), '../..');
export const bundledModel = path.join(root, 'models/shunter-16m');
const gptOssTrace = path.join(root, 'bench/placement/data/gpt-oss-20b.experts.u8.gz');

/** 978 M parameters, 1.96 GB, as many MoE layers and experts as gpt-oss-20b has. */
export const REPLAY_MODEL = {
  hidden_size: 1024,
  num_hidden_layers: 24,
  num_attention_heads: 16,
  num_key_value_heads: 4,
  head_dim: 64,
  num_experts: 32,
  num_experts_per_tok: 4,
  moe_intermediate_size: 384,
  intermediate_size: 1536,
  vocab_size: 4096,
};

/** Sequences that plans are not made from. */
const heldOutShare = 0.25;
const seed = 1;
/** Of each domain's text, windows for planning come from the first part and windows for measuring from the rest. */
const planningTextShare = 0.75;
const planningWindows = 48;
const windowTokens = { prompt: 64, generated: 64 };

/**
 * Real text of several domains through the bundled model.
 * @param bed any; its first host records the trace that plans are made from
 */
export async function textWorkload(bed, cacheFolder) {
  mkdirSync(cacheFolder, { recursive: true });
  // Other weights choose other experts.
  const name = `text-${digestOf(...['config.json', 'tokenizer.json', 'model.safetensors'].map((part) => path.join(bundledModel, part)))}`;
  const file = path.join(cacheFolder, `${name}.trace`);
  const idsFile = path.join(cacheFolder, `${name}-ids.json`);
  if (!existsSync(file) || !existsSync(idsFile)) await recordText(bed, file, idsFile);
  const ids = JSON.parse(readFileSync(idsFile, 'utf8'));
  const domains = Object.keys(ids);
  return {
    name: 'text',
    title: 'bundled model, text of five domains',
    decodeTokens: 160,
    /** A prompt takes half a second: what one alone measures differs by a third from time to time. */
    prefillRounds: 6,
    model: bundledModel,
    ...shapeOf(bundledModel),
    replay: null,
    planningTrace: file,
    tracedSequences: domains.length * planningWindows,
    /** A request on held-out text: the n-th, domains in turn. The first half of each text is for calibration, the second for what it predicts. */
    request(n, promptTokens, maxTokens, calibrating = false) {
      const domain = domains[n % domains.length];
      const text = ids[domain].measuring;
      const half = text.length >> 1;
      const own = calibrating ? text.slice(0, half) : text.slice(half);
      const at = Math.floor(mixed(n) * Math.max(1, own.length - promptTokens));
      return { prompt: own.slice(at, at + promptTokens), maxTokens, domain, replaySequence: null };
    },
    /** The routing to predict from: recorded windows of the same domains, which are like those that are measured. */
    async routing() {
      return (await openTrace(file)).trace;
    },
    /** Sequence of that routing that stands for the n-th request, or is the one that it replays. */
    tracedSequence(trace, { domain, replaySequence }, n) {
      if (replaySequence !== null) return replaySequence;
      const own = trace.sequences.map((sequence, index) => ({ ...sequence, index })).filter((sequence) => sequence.domain === domain);
      return own[Math.floor(mixed(n) * own.length)].index;
    },
  };
}

async function recordText(bed, file, idsFile) {
  const folder = path.join(bundledModel, 'held-out');
  const cluster = await startCluster(bed, { model: bundledModel, plan: onHosts(bundledModel, 1) });
  try {
    const ids = {};
    for (const name of readdirSync(folder).filter((n) => n.endsWith('.txt'))) {
      const all = await cluster.tokenize(readFileSync(path.join(folder, name), 'utf8'));
      const cut = Math.floor(all.length * planningTextShare);
      ids[path.basename(name, '.txt')] = { planning: all.slice(0, cut), measuring: all.slice(cut) };
    }
    writeFileSync(idsFile, JSON.stringify(ids));
    await cluster.record(file, async () => {
      for (const [domain, { planning }] of Object.entries(ids)) {
        const requests = Array.from({ length: planningWindows }, (_, w) => {
          const at = Math.floor((w * (planning.length - windowTokens.prompt)) / planningWindows);
          const prompt = planning.slice(at, at + windowTokens.prompt);
          return { prompt, maxTokens: windowTokens.generated, domain, replaySequence: null };
        });
        const seen = await cluster.batch(requests);
        const failed = seen.find(({ error }) => error !== null);
        if (failed) throw new Error(`recording: ${failed.error}`);
      }
    });
  } finally {
    await cluster.stop();
  }
}

/** The routing of gpt-oss-20b replayed over a model of random weights. */
export async function replayWorkload(cacheFolder) {
  const model = path.join(cacheFolder, 'replay-model');
  if (!existsSync(path.join(model, 'tokenizer_config.json'))) writeRandomModel(model, bundledModel, REPLAY_MODEL);
  const { trace } = await openTrace(gptOssTrace);
  const replay = path.join(cacheFolder, 'gpt-oss.trace');
  if (!existsSync(replay)) writeTrace(trace, replay);
  const { train, test } = holdOut(trace, heldOutShare, seed);
  const planningTrace = path.join(cacheFolder, 'gpt-oss-planning.trace');
  if (!existsSync(planningTrace)) writeTrace(train, planningTrace);
  const indexOf = new Map(trace.sequences.map(({ sequence }, index) => [sequence, index]));
  const order = test.sequences.map((_, i) => i).sort((a, b) => mixed(a) - mixed(b));
  const half = order.length >> 1;
  return {
    name: 'replay',
    title: 'random weights of 2 GB, routing of gpt-oss-20b replayed',
    decodeTokens: 32,
    prefillRounds: 3,
    model,
    ...shapeOf(model),
    replay,
    planningTrace,
    /** Replays the n-th held-out sequence: one half of them is for calibration, the other for what it predicts. */
    request(n, promptTokens, maxTokens, calibrating = false) {
      const own = calibrating ? order.slice(0, half) : order.slice(half);
      const { sequence, domain } = test.sequences[own[n % own.length]];
      const prompt = Array.from(
        { length: promptTokens },
        (_, i) => 256 + Math.floor(mixed(n * 4099 + i) * (REPLAY_MODEL.vocab_size - 256)),
      );
      return { prompt, maxTokens, domain, replaySequence: indexOf.get(sequence) };
    },
    routing: async () => trace,
    tracedSequence: (_trace, { replaySequence }) => replaySequence,
  };
}

/** Experts in even, contiguous ranges over hosts of one worker each. */
export function onHosts(model, hosts) {
  const { type, moeLayers, experts } = shapeOf(model);
  const workers = Array.from({ length: hosts }, (_, n) => ({ name: `n${n}w0`, node: n }));
  return contiguousPlan({ type, moeLayers, experts }, workers);
}

function shapeOf(model) {
  const config = JSON.parse(readFileSync(path.join(model, 'config.json'), 'utf8'));
  const { moeLayers, experts } = inspectModel(model);
  return {
    type: config.model_type,
    moeLayers,
    experts,
    topK: config.num_experts_per_tok,
    hidden: config.hidden_size,
    intermediate: config.moe_intermediate_size,
    config,
  };
}

/** Under its name only once it is whole: what an interrupted run has begun is no trace to go on with. */
function writeTrace(trace, file) {
  const { chunks, sequences } = writeSwitchyardTrace(trace, new Date(0).toISOString());
  const out = openSync(`${file}.part`, 'w', 0o600);
  for (const chunk of chunks) writeSync(out, chunk);
  closeSync(out);
  writeFileSync(`${file}.sequences.jsonl`, sequences, { mode: 0o600 });
  renameSync(`${file}.part`, file);
}

/** Of what the files hold: names what was made from them. */
export function digestOf(...files) {
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(file));
  return hash.digest('hex').slice(0, 12);
}

/** A number in [0, 1) that depends on n alone, without a pattern. */
function mixed(n) {
  let h = Math.imul(n + 1, 0x9e3779b1) >>> 0;
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b) >>> 0;
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35) >>> 0;
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}
