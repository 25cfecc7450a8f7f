import { createHash } from 'node:crypto';
import { documentFields } from './document-fields.ts';
import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

/**
 * A placement plan: for every (layer, expert) the workers that hold a replica. Immutable; named by its checksum. Files hold one plan as JSON.
 *
 * `replicas[l][e]` lists worker indexes (ascending, no repeats, never empty) for the l-th MoE layer, where `moeLayers[l]` is its index in the model.
 * `workers[w].node` groups workers into nodes. Nothing is divisible by anything.
 */
export interface Plan {
  format: 'switchyard-plan';
  version: 1;
  model: { type: string; moeLayers: number[]; experts: number };
  workers: { name: string; node: number }[];
  replicas: number[][][];
  /** Who made it and what it promises; free of meaning for the runtime. */
  provenance: Record<string, unknown> | null;
}

/** Consecutive ranges of experts over workers, as even as possible: expert e lives on worker floor(e * workers / experts). */
export function contiguousPlan(model: Plan['model'], workers: Plan['workers']): Plan {
  const owner = Array.from({ length: model.experts }, (_, e) => [Math.floor((e * workers.length) / model.experts)]);
  return {
    format: 'switchyard-plan',
    version: 1,
    model,
    workers,
    replicas: model.moeLayers.map(() => owner.map((w) => [...w])),
    provenance: { method: 'contiguous' },
  };
}

const { refusal: badPlan, record, list, integer, name } = documentFields('plan', 'bad_plan');

/** What a plan must agree with. */
export interface PlanExpectation {
  model?: Plan['model'];
  /** In plan order. */
  workers?: Plan['workers'];
}

/**
 * Reads a plan file and checks all of it: afterwards every index is inside its bounds. Fields that the format does not know are left out of the result.
 * @param json text or UTF-8 bytes, at most `limits.planBytesMax`
 * @throws SwitchyardError `bad_plan` naming the field, its value and its limit
 */
export function parsePlan(json: string | Uint8Array, expected: PlanExpectation = {}): Plan {
  if (json.length > limits.planBytesMax) throw badPlan('length', json.length, `at most ${limits.planBytesMax} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(typeof json === 'string' ? json : new TextDecoder('utf-8', { fatal: true }).decode(json));
  } catch (cause) {
    throw new SwitchyardError('bad_plan', `plan: not JSON: ${(cause as Error).message}`, { cause });
  }
  const plan = record('plan', value);
  if (plan.format !== 'switchyard-plan') throw badPlan('format', plan.format, '"switchyard-plan"');
  if (plan.version !== 1) throw badPlan('version', plan.version, 1);
  const model = parseModel(record('model', plan.model), expected.model);
  const workers = parseWorkers(list('workers', plan.workers, 1, limits.workersMax), expected.workers);
  const replicas = list('replicas', plan.replicas, model.moeLayers.length, model.moeLayers.length).map((layer, l) =>
    list(`replicas[${l}]`, layer, model.experts, model.experts).map((holders, e) =>
      parseHolders(`replicas[${l}][${e}]`, holders, workers.length),
    ),
  );
  const provenance = plan.provenance == null ? null : record('provenance', plan.provenance);
  return { format: 'switchyard-plan', version: 1, model, workers, replicas, provenance };
}

/** Names a plan by what it means: 16 hex digits of SHA-256 over everything but its provenance. */
export function planChecksum(plan: Plan): string {
  const { format, version, model, workers, replicas } = plan;
  const meaning = [format, version, model.type, model.moeLayers, model.experts, workers.map((w) => [w.name, w.node]), replicas];
  return createHash('sha256').update(JSON.stringify(meaning)).digest('hex').slice(0, 16);
}

function parseModel(model: Record<string, unknown>, expected: Plan['model'] | undefined): Plan['model'] {
  const type = name('model.type', model.type);
  const moeLayers = ascending('model.moeLayers', list('model.moeLayers', model.moeLayers, 1, limits.moeLayersMax), 65_535);
  const experts = integer('model.experts', model.experts, 1, limits.expertsMax);
  if (expected !== undefined) {
    if (type !== expected.type) throw badPlan('model.type', type, JSON.stringify(expected.type));
    if (experts !== expected.experts) throw badPlan('model.experts', experts, expected.experts);
    if (moeLayers.join() !== expected.moeLayers.join())
      throw badPlan('model.moeLayers', `[${moeLayers}]`.slice(0, 100), `[${expected.moeLayers}]`.slice(0, 100));
  }
  return { type, moeLayers, experts };
}

function parseWorkers(workers: unknown[], expected: Plan['workers'] | undefined): Plan['workers'] {
  const parsed = workers.map((value, w) => {
    const worker = record(`workers[${w}]`, value);
    return { name: name(`workers[${w}].name`, worker.name), node: integer(`workers[${w}].node`, worker.node, 0, limits.nodesMax - 1) };
  });
  const seen = new Map<string, number>();
  for (const [w, worker] of parsed.entries()) {
    if (seen.has(worker.name)) throw badPlan(`workers[${w}].name`, worker.name, `unlike workers[${seen.get(worker.name)}].name`);
    seen.set(worker.name, w);
  }
  if (expected !== undefined) {
    if (parsed.length !== expected.length) throw badPlan('workers.length', parsed.length, expected.length);
    for (const [w, worker] of parsed.entries()) {
      if (worker.name !== expected[w].name) throw badPlan(`workers[${w}].name`, worker.name, JSON.stringify(expected[w].name));
      if (worker.node !== expected[w].node) throw badPlan(`workers[${w}].node`, worker.node, expected[w].node);
    }
  }
  return parsed;
}

function parseHolders(field: string, value: unknown, workers: number): number[] {
  return ascending(field, list(field, value, 1, workers), workers - 1);
}

/** Integers in 0..max, each larger than the one before. */
function ascending(field: string, values: unknown[], max: number): number[] {
  for (const [i, value] of values.entries()) {
    integer(`${field}[${i}]`, value, 0, max);
    if (i > 0 && (value as number) <= (values[i - 1] as number))
      throw badPlan(`${field}[${i}]`, value, `above ${values[i - 1]}: ascending, no repeats`);
  }
  return values as number[];
}
