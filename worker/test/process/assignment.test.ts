import { type Assign, contiguousPlan, type EngineConfig, limits, SwitchyardError } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { laneRows } from '../../src/engine/lanes.ts';
import { checkPlanFits, loadOptions, readAssignment } from '../../src/process/assignment.ts';
import { toyEngine } from '../engine/toy-model.ts';

const flags = { backend: 'cpu', isa: 'auto', threads: 2, cpus: null } as const;
const plan = contiguousPlan(
  { type: 'toy', moeLayers: [1, 2], experts: 4 },
  [0, 1].map((node) => ({ name: `w${node}`, node })),
);

function assign(engine: Partial<EngineConfig> = {}, more: Partial<Assign> = {}, placed: object = plan): Assign {
  const whole = { ...toyEngine({ maxRows: 0, maxSequences: 0 }), ...engine };
  return { worker: 1, epoch: 7, modelDir: '/model', plan: Buffer.from(JSON.stringify(placed)), engine: whole, ...more };
}

const optionsOf = (message: Assign) => loadOptions(readAssignment(message), flags, () => {}, new AbortController().signal);

/** The field and what is said of it; null where nothing is refused. */
function refusalOf(attempt: () => unknown): [string, string | null, string] | null {
  try {
    attempt();
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(SwitchyardError);
    const { code, param, message } = error as SwitchyardError;
    return [code, param ?? null, message];
  }
}

describe('an assignment', () => {
  test('takes what it leaves open from the worker', () => {
    const absent = { numericClass: '', expertDtype: '', denseDtype: '', sumMode: '', rowDeadlineMs: 0 };
    expect(readAssignment(assign(absent)).engine).toMatchObject({
      maxBatchRows: 512,
      maxSequences: 64,
      rowDeadlineMs: limits.rowDeadlineMs,
    });
    expect(optionsOf(assign(absent)).numericClass).toEqual({
      activations: 'auto',
      experts: 'stored',
      dense: 'stored',
      sum: 'exact',
      wire: null,
    });
    const said = { numericClass: 'bf16', expertDtype: 'int4', denseDtype: 'int8', sumMode: 'fast', rowDeadlineMs: 5, lossy: 'wire=fp8' };
    expect(readAssignment(assign({ ...said, maxBatchRows: 9, maxSequences: 3 })).engine).toMatchObject({
      maxBatchRows: 9,
      maxSequences: 3,
      rowDeadlineMs: 5,
    });
    expect(optionsOf(assign(said)).numericClass).toEqual({ activations: 'bf16', experts: 'int4', dense: 'int8', sum: 'fast', wire: 'fp8' });
  });

  test.each([
    ['max_batch_rows', 'maxBatchRows', limits.frameRowsMax],
    ['max_sequences', 'maxSequences', limits.requestsRunningMax],
    ['draft_max', 'draftMax', limits.draftMax],
  ] as const)('is refused above the limit of %s', (param, field, limit) => {
    expect(readAssignment(assign({ [field]: limit })).engine[field]).toBe(limit);
    const message = `${param} is ${limit + 1}; the limit is ${limit}`;
    expect(refusalOf(() => readAssignment(assign({ [field]: limit + 1 })))).toEqual(['invalid_request', param, message]);
  });

  test.each([
    ['numeric_class', 'numericClass', 'f32, bf16, auto'],
    ['expert_dtype', 'expertDtype', 'stored, int8, int4'],
    ['dense_dtype', 'denseDtype', 'stored, int8'],
    ['sum_mode', 'sumMode', 'exact, fast'],
  ] as const)('is refused where %s is not one of its names', (param, field, names) => {
    for (const name of names.split(', ')) expect(refusalOf(() => optionsOf(assign({ [field]: name })))).toBeNull();
    const message = `${param} is int2; it must be one of ${names}`;
    expect(refusalOf(() => optionsOf(assign({ [field]: 'int2' })))).toEqual(['invalid_request', param, message]);
  });

  test('of a worker that the plan does not have is refused', () => {
    expect(refusalOf(() => readAssignment(assign({}, { worker: 2 })))).toEqual(['bad_plan', 'worker', 'worker is 2; the plan has 2']);
  });

  test('has the key of its equals only', () => {
    const keyOf = (...message: Parameters<typeof assign>) => readAssignment(assign(...message)).key;
    expect(keyOf()).toBe(keyOf());
    const others = [keyOf({ kvBlocks: 1 }), keyOf({}, { worker: 0 }), keyOf({}, { epoch: 8 }), keyOf({}, { modelDir: '/other' })];
    const moved = { ...plan, replicas: plan.replicas.toReversed().map((layer) => layer.toReversed()) };
    expect(new Set([keyOf(), ...others, keyOf({}, {}, moved)]).size).toBe(6);
  });

  test('makes lanes where experts live elsewhere, and one step over everything where none does', () => {
    const { hosted, laneRows: rows } = optionsOf(assign({ draftMax: 8 }));
    expect(hosted).toEqual(plan.replicas.map((layer) => layer.flatMap((holders, e) => (holders.includes(1) ? [e] : []))));
    expect(rows).toEqual(laneRows({ maxBatchRows: 512, maxSequences: 64, draftMax: 8 }));
    const everywhere = { ...plan, replicas: plan.replicas.map((layer) => layer.map(() => [0, 1])) };
    expect(optionsOf(assign({}, {}, everywhere))).toMatchObject({ hosted: null, laneRows: null });
    const butOne = { ...plan, replicas: everywhere.replicas.map((layer, i) => (i === 1 ? [[0], ...layer.slice(1)] : layer)) };
    expect(optionsOf(assign({}, {}, butOne)).hosted).toEqual([
      [0, 1, 2, 3],
      [1, 2, 3],
    ]);
  });

  test.each([
    [{ maxSequences: 4, draftMax: 8 }, 64],
    [{ maxSequences: 64, draftMax: 8 }, 72],
    [{ maxSequences: 64 }, 64],
  ])('has logits for every stream, the guesses of one and a chunk of prompt: %o', (engine, rows) => {
    expect(optionsOf(assign(engine)).maxLogitRows).toBe(rows);
  });

  test('keeps tokens on a few nodes where it says so', () => {
    expect(optionsOf(assign()).nodeLimit).toBeNull();
    expect(optionsOf(assign({ lossy: 'node-limit=1' })).nodeLimit).toMatchObject({ nodes: 1 });
  });

  test('is of the model that was loaded', () => {
    const assigned = readAssignment(assign());
    const fits = (moeLayers: number[], experts: number) => refusalOf(() => checkPlanFits(assigned, { moeLayers, experts }));
    expect(fits([1, 2], 4)).toBeNull();
    expect(fits([1], 4)).toEqual(['bad_plan', 'moeLayers', 'model.moeLayers is 1,2; the checkpoint has 1']);
    expect(fits([1, 3], 4)).toEqual(['bad_plan', 'moeLayers', 'model.moeLayers is 1,2; the checkpoint has 1,3']);
    expect(fits([1, 2], 5)).toEqual(['bad_plan', 'experts', 'model.experts is 4; the checkpoint has 5']);
  });
});
