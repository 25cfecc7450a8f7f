import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import type { ModelGraph } from './graph.ts';

/** How one `model_type` becomes a graph: config, then tensors, then ops, in the order of the architecture. Throws `bad_checkpoint`. */
export type Family = (checkpoint: Checkpoint) => ModelGraph;
