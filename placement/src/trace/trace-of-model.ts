import type { LoadMatrix } from './load-matrix.ts';
import { badTrace, type RoutingTrace } from './routing-trace.ts';

/** What a checkpoint says and other formats than our own do not, or not in full. */
export interface TraceModel {
  /** `model_type` of its configuration, by which plans name the models that they fit. */
  type: string;
  /** Index of each layer with experts. */
  moeLayers: number[];
  experts: number;
  /** Experts that a token chooses in a layer. */
  topK: number;
}

/**
 * The trace as one of a known model: plans made from it can be served with that model. Experts that no token chose count too, and layers that were numbered among
 * themselves get the model's numbers.
 *
 * @throws invalid_request where the trace is of other layers, more experts or more choices, or says itself that it is of another model
 */
export function traceOfModel(trace: RoutingTrace, model: TraceModel, source: string): RoutingTrace {
  const { modelType, groups } = trace;
  if (modelType !== undefined && modelType !== model.type)
    throw badTrace(source, 'model', `the trace says that it is of a ${modelType}, and the model is a ${model.type}`);
  // A trace that names its type or its groups knows them from the model, and its experts too.
  if ((modelType !== undefined || groups !== undefined) && trace.experts !== model.experts)
    throw badTrace(source, 'experts', `the trace says that there are ${trace.experts}, and the model has ${model.experts} in a layer`);
  if (trace.topK > model.topK)
    throw badTrace(source, 'choices', `a token has ${trace.topK} in a layer, and with this model at most ${model.topK}`);
  if (trace.experts > model.experts)
    throw badTrace(source, 'experts', `there are ${trace.experts}, and the model has ${model.experts} in a layer`);
  return { ...trace, modelType: model.type, experts: model.experts, moeLayers: layersOf(trace.moeLayers, model, source) };
}

/** The same of loads alone, which have a number for every expert. */
export function loadsOfModel(loads: LoadMatrix, model: TraceModel, source: string): LoadMatrix {
  if (loads.experts !== model.experts)
    throw badTrace(source, 'experts', `there are loads of ${loads.experts}, and the model has ${model.experts} in a layer`);
  const named = loads.moeLayers ?? Array.from({ length: loads.layers }, (_, l) => l);
  return { ...loads, moeLayers: layersOf(named, model, source) };
}

function layersOf(given: readonly number[], { moeLayers }: TraceModel, source: string): number[] {
  if (given.length !== moeLayers.length)
    throw badTrace(source, 'layers', `there are ${given.length} with experts, and the model has ${moeLayers.length}`);
  const amongThemselves = given.every((layer, l) => layer === l);
  const other = given.findIndex((layer, l) => layer !== moeLayers[l]);
  if (other >= 0 && !amongThemselves)
    throw badTrace(
      source,
      'layers',
      `number ${other} of those with experts is layer ${given[other]}, and in the model ${moeLayers[other]}`,
    );
  return [...moeLayers];
}
