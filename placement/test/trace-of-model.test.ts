import { describe, expect, it } from 'vitest';
import type { RoutingTrace } from '../src/index.ts';
import { traceOfModel } from '../src/trace/trace-of-model.ts';
import { toyTrace } from './slice.ts';

describe('a trace of a known model', () => {
  const model = { type: 'gpt_oss', moeLayers: [4, 5], experts: 8, topK: 2 };
  const foreign = toyTrace({ layers: 2, experts: 6, topK: 2, sequences: 1, tokensEach: 3 });

  it('takes what the model says', () => {
    expect(traceOfModel(foreign, model, 'x')).toMatchObject({ modelType: 'gpt_oss', experts: 8, moeLayers: [4, 5] });
  });

  it('is refused where it says otherwise itself', () => {
    const of =
      (own: Partial<RoutingTrace>, known = model) =>
      () =>
        traceOfModel({ ...foreign, ...own }, known, 'x');
    expect(of({ modelType: 'qwen3_moe', experts: 8 })).toThrow(
      'x: model: the trace says that it is of a qwen3_moe, and the model is a gpt_oss',
    );
    expect(of({ modelType: 'gpt_oss' })).toThrow('x: experts: the trace says that there are 6, and the model has 8 in a layer');
    expect(of({ groups: 3 })).toThrow('the trace says that there are 6');
    expect(of({}, { ...model, topK: 1 })).toThrow('x: choices: a token has 2 in a layer, and with this model at most 1');
    expect(of({ modelType: 'gpt_oss', experts: 8 })()).toMatchObject({ experts: 8 });
  });
});
