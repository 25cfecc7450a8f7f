import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { contiguousPlan, limits, type Plan, parsePlan, planChecksum } from '../src/index.ts';

const arbitraryPlan: fc.Arbitrary<Plan> = fc
  .record({
    layers: fc.uniqueArray(fc.nat(100), { minLength: 1, maxLength: 4 }),
    experts: fc.integer({ min: 1, max: 9 }),
    workers: fc.integer({ min: 1, max: 6 }),
  })
  .chain(({ layers, experts, workers }) => {
    const holders = fc.subarray(
      Array.from({ length: workers }, (_, w) => w),
      { minLength: 1 },
    );
    const layer = fc.array(holders, { minLength: experts, maxLength: experts });
    return fc.record({
      format: fc.constant('switchyard-plan' as const),
      version: fc.constant(1 as const),
      model: fc.constant({ type: 'qwen3_moe', moeLayers: layers.sort((a, b) => a - b), experts }),
      workers: fc
        .array(fc.nat(limits.nodesMax - 1), { minLength: workers, maxLength: workers })
        .map((nodes) => nodes.map((node, w) => ({ name: `w${w}`, node }))),
      replicas: fc.array(layer, { minLength: layers.length, maxLength: layers.length }),
      provenance: fc.oneof(fc.constant(null), fc.dictionary(fc.string(), fc.jsonValue())),
    });
  });

const model = { type: 'mixtral', moeLayers: [0, 1], experts: 4 };
const workers = [
  { name: 'a', node: 0 },
  { name: 'b', node: 1 },
];
const plan = contiguousPlan(model, workers);

describe('parsePlan', () => {
  it('reads back every plan, from text and from bytes', () => {
    fc.assert(
      fc.property(arbitraryPlan, (made) => {
        const json = JSON.stringify(made);
        const wanted = JSON.parse(json);
        expect(parsePlan(json)).toEqual(wanted);
        expect(parsePlan(Buffer.from(json), made)).toEqual(wanted);
      }),
    );
  });

  it('reads contiguous plans', () => {
    expect(parsePlan(JSON.stringify(plan), { model, workers })).toEqual(plan);
    expect(plan.replicas[0]).toEqual([[0], [0], [1], [1]]);
    // One layer's replicas may be changed without another's.
    const changed = contiguousPlan(model, workers);
    changed.replicas[0][0].push(1);
    expect(changed.replicas[1][0]).toEqual([0]);
  });

  const edits: [string, (p: Plan) => void][] = [
    ['format', (p) => Object.assign(p, { format: 'other' })],
    ['version', (p) => Object.assign(p, { version: 2 })],
    ['model', (p) => Object.assign(p, { model: null })],
    ['model.type', (p) => Object.assign(p.model, { type: '' })],
    ['model.experts', (p) => Object.assign(p.model, { experts: limits.expertsMax + 1 })],
    ['model.experts', (p) => Object.assign(p.model, { experts: 0 })],
    ['model.moeLayers[1]', (p) => Object.assign(p.model, { moeLayers: [1, 1] })],
    ['model.moeLayers.length', (p) => Object.assign(p.model, { moeLayers: [] })],
    ['workers.length', (p) => Object.assign(p, { workers: [] })],
    ['workers[1].name', (p) => Object.assign(p.workers[1], { name: 'a' })],
    ['workers[0].node', (p) => Object.assign(p.workers[0], { node: limits.nodesMax })],
    ['workers[0].node', (p) => Object.assign(p.workers[0], { node: -1 })],
    ['replicas', (p) => Object.assign(p, { replicas: {} })],
    ['replicas.length', (p) => p.replicas.pop()],
    ['replicas[1].length', (p) => p.replicas[1].pop()],
    ['replicas[1][2].length', (p) => Object.assign(p.replicas[1], { 2: [] })],
    ['replicas[0][3][0]', (p) => Object.assign(p.replicas[0], { 3: [2] })],
    ['replicas[0][3][1]', (p) => Object.assign(p.replicas[0], { 3: [1, 0] })],
    ['replicas[0][3][1]', (p) => Object.assign(p.replicas[0], { 3: [0, 0] })],
    ['replicas[0][0][0]', (p) => Object.assign(p.replicas[0], { 0: ['0'] })],
    ['replicas[0][0][0]', (p) => Object.assign(p.replicas[0], { 0: [0.5] })],
    ['provenance', (p) => Object.assign(p, { provenance: 'me' })],
  ];
  it.each(edits)('names %s when it is wrong', (field, edit) => {
    const spoilt = structuredClone(plan);
    edit(spoilt);
    expect(() => parsePlan(JSON.stringify(spoilt))).toThrow(expect.objectContaining({ code: 'bad_plan', param: field }));
  });

  it.each([
    ['model.type', { model: { ...model, type: 'other' } }],
    ['model.experts', { model: { ...model, experts: 5 } }],
    ['model.moeLayers', { model: { ...model, moeLayers: [0, 2] } }],
    ['workers.length', { workers: [workers[0]] }],
    ['workers[1].name', { workers: [workers[0], { name: 'c', node: 1 }] }],
    ['workers[1].node', { workers: [workers[0], { name: 'b', node: 0 }] }],
  ])('names %s when it is not what was expected', (field, expected) => {
    expect(() => parsePlan(JSON.stringify(plan), expected)).toThrow(expect.objectContaining({ code: 'bad_plan', param: field }));
  });

  it('takes no more than its limits, and text only', () => {
    const refused = (json: string | Uint8Array, param: string | null) =>
      expect(() => parsePlan(json)).toThrow(expect.objectContaining({ code: 'bad_plan', param }));
    refused(new Uint8Array(limits.planBytesMax + 1), 'length');
    // A worker's name that is no UTF-8.
    refused(Buffer.from(JSON.stringify(plan).replace('"a"', '"\xe9"'), 'latin1'), null);
    const layers = (count: number, first = 0) => {
      const moeLayers = Array.from({ length: count }, (_, l) => first + l);
      return JSON.stringify({ ...plan, model: { ...model, moeLayers }, replicas: moeLayers.map(() => plan.replicas[0]) });
    };
    expect(parsePlan(layers(limits.moeLayersMax)).replicas.length).toBe(limits.moeLayersMax);
    refused(layers(limits.moeLayersMax + 1), 'model.moeLayers.length');
    expect(parsePlan(layers(1, 65_535)).model.moeLayers).toEqual([65_535]);
    refused(layers(1, 65_536), 'model.moeLayers[0]');
    const many = Array.from({ length: limits.workersMax + 1 }, (_, w) => ({ name: `w${w}`, node: 0 }));
    expect(parsePlan(JSON.stringify({ ...plan, workers: many.slice(1) })).workers.length).toBe(limits.workersMax);
    refused(JSON.stringify({ ...plan, workers: many }), 'workers.length');
  });

  it('fails by bad_plan only, whatever it is given', () => {
    const json = fc.oneof(
      fc.string(),
      fc.json(),
      fc.jsonValue().map((v) => JSON.stringify({ ...plan, replicas: v })),
      fc.uint8Array(),
    );
    fc.assert(
      fc.property(json, (given) => {
        expect(() => parsePlan(given)).toThrow(expect.objectContaining({ code: 'bad_plan' }));
      }),
    );
  });
});

describe('planChecksum', () => {
  it('is the same for the same meaning and another otherwise', () => {
    const name = planChecksum(plan);
    expect(name).toMatch(/^[0-9a-f]{16}$/);
    expect(planChecksum({ ...plan, provenance: { method: 'someone else' } })).toBe(name);
    expect(planChecksum(parsePlan(JSON.stringify(plan)))).toBe(name);
    const moved = structuredClone(plan);
    moved.replicas[1][3] = [0];
    const others: Plan[] = [
      moved,
      { ...plan, workers: [{ name: 'z', node: 0 }, workers[1]] },
      { ...plan, workers: [workers[0], { name: 'b', node: 0 }] },
      { ...plan, model: { ...model, type: 'olmoe' } },
      { ...plan, model: { ...model, moeLayers: [0, 2] } },
      { ...plan, model: { ...model, experts: 5 } },
    ];
    expect(new Set([name, ...others.map(planChecksum)]).size).toBe(7);
  });
});
