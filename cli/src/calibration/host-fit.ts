import { fitCosts, type HostModel } from '@switchyard/placement';

/** What the constants are derived from. */
export interface ModelShape {
  moeLayers: number;
  experts: number;
  topK: number;
}

/** Tokens that went through the model, in so many steps, and what all workers together spent on them. Seconds. */
export interface MeasuredLoad {
  tokens: number;
  steps: number;
  /** Positions that the tokens attended to, summed over them. */
  contextTokens: number;
  /** Tokens that clients got. */
  outputs: number;
  attention: number;
  experts: number;
  /** Sampling and all else that a step takes. */
  rest: number;
}

/**
 * The host model by loads that differ in rows per step and in context: one stream of decoding, where a step is one row and every expert it needs is read for it
 * alone, and prompts short and long. Frames cost nothing here: a probe of a link has the work of both ends in its latency. Pure.
 */
export function fitHost({ moeLayers, experts, topK }: ModelShape, loads: readonly MeasuredLoad[]): HostModel {
  const costsOf = (of: (load: MeasuredLoad) => number, ...columns: ((load: MeasuredLoad) => number)[]) =>
    fitCosts(
      columns.map((column) => loads.map(column)),
      loads.map(of),
    );
  // Routing of random prompts: what an expert's chance is to be chosen by none of a step's rows.
  const distinct = ({ tokens, steps }: MeasuredLoad) => steps * experts * (1 - (1 - topK / experts) ** (tokens / steps));
  const [fixed, perRow, perContext] = costsOf(
    ({ attention }) => attention,
    ({ steps }) => moeLayers * steps,
    ({ tokens }) => moeLayers * tokens,
    ({ contextTokens }) => moeLayers * contextTokens,
  );
  const [perPair, perExpert] = costsOf(
    (load) => load.experts,
    ({ tokens }) => moeLayers * tokens * topK,
    (load) => moeLayers * distinct(load),
  );
  const [perStep, perStepRow, perToken] = costsOf(
    ({ rest }) => rest,
    ({ steps }) => steps,
    ({ tokens }) => tokens,
    ({ outputs }) => outputs,
  );
  return {
    step: { fixed: perStep, perRow: perStepRow, perToken },
    segment: { fixed, perRow, perContext },
    experts: { fixed: 0, perRow: perPair, perExpert },
    frame: { fixed: 0, perByte: 0 },
    wake: 0,
    outside: { perRequest: 0, perStep: 0, perToken: 0 },
  };
}
