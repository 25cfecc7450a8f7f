import { limits } from '@switchyard/proto';
import { badTrace, NO_EXPERT, type RoutingTrace, shown } from './routing-trace.ts';

/** Rows served per expert, (layers, experts): all that EPLB knows of a workload. */
export interface LoadMatrix {
  layers: number;
  experts: number;
  /** Index in the model of each MoE layer, (layers); absent: the format does not say. */
  moeLayers?: number[];
  /** (layers, experts) */
  counts: Float64Array;
}

/** Rows: beyond this they are no longer counted one by one, and far beyond sums are no numbers. */
const loadMax = Number.MAX_SAFE_INTEGER;

/** @param flat (layers, experts) */
export function loadMatrixOf(flat: ArrayLike<unknown>, layers: number, experts: number, source: string): LoadMatrix {
  if (layers > limits.moeLayersMax) throw badTrace(source, 'shape', `layers is ${layers}, at most ${limits.moeLayersMax}`);
  if (experts > limits.expertsMax) throw badTrace(source, 'shape', `experts is ${experts}, at most ${limits.expertsMax}`);
  if (flat.length !== layers * experts) throw badTrace(source, 'shape', `${flat.length} numbers for ${layers} layers x ${experts} experts`);
  const counts = Float64Array.from(flat, (count, i) => {
    if (typeof count === 'number' && count >= 0 && count <= loadMax) return count;
    throw badTrace(
      source,
      `layer ${Math.floor(i / experts)}, expert ${i % experts}`,
      `load is ${shown(count)}, must be a number in 0..${loadMax}`,
    );
  });
  return { layers, experts, counts };
}

/** Reads a plain `[layers][experts]` list of lists. */
export function readLoadMatrix(text: string, source: string): LoadMatrix {
  let rows: unknown;
  try {
    rows = JSON.parse(text);
  } catch {
    throw badTrace(source, 'file', 'not JSON');
  }
  return matrixOfRows(rows, source, 'file');
}

/** Reads the popularity of experts as Fiddler counts it (arXiv 2402.07033): `{"total_input_tokens", "expert_popularity": [layers][experts]}`. */
export function readExpertPopularity(text: string, source: string): LoadMatrix {
  let file: { expert_popularity?: unknown } | null;
  try {
    file = JSON.parse(text);
  } catch {
    throw badTrace(source, 'file', 'not JSON');
  }
  return matrixOfRows(file?.expert_popularity, source, 'expert_popularity');
}

function matrixOfRows(rows: unknown, source: string, place: string): LoadMatrix {
  if (
    !Array.isArray(rows) ||
    rows.length === 0 ||
    !rows.every((row) => Array.isArray(row) && row.length === rows[0].length && row.length > 0)
  )
    throw badTrace(source, place, 'expected [layers][experts], lists of equal length');
  return loadMatrixOf((rows as unknown[][]).flat(), rows.length, (rows as unknown[][])[0].length, source);
}

/** Rows per expert and layer in a routing trace. */
export function expertLoads(trace: RoutingTrace): LoadMatrix {
  const layers = trace.moeLayers.length;
  const counts = new Float64Array(layers * trace.experts);
  const row = layers * trace.topK;
  for (let i = 0; i < trace.ids.length; i++) {
    const id = trace.ids[i];
    if (id !== NO_EXPERT) counts[Math.floor((i % row) / trace.topK) * trace.experts + id]++;
  }
  return { layers, experts: trace.experts, moeLayers: trace.moeLayers, counts };
}
