import type { Device, DeviceBuffer, Experts, KvCache, Native, RowSum, Table, Weight } from '@switchyard/native';
import type { Cache, Constant, Embedding, ExpertBank, Handles, Matrix, ModelGraph, MoeNode, Slot } from './graph.ts';
import { laneBytes } from './memory.ts';
import type { Residency } from './residency.ts';
import type { Rope } from './rope.ts';

/** What one lane writes: a buffer per batch slot and the expert sums. Weights, caches, tables and logit rows are the model's. */
export class Activations implements Handles {
  readonly sum: RowSum;
  readonly maxContext: number;
  /** Bytes of this lane alone. */
  readonly bytes: number;
  private readonly shared: Residency;
  private readonly own = new Map<Slot | Constant | Rope, DeviceBuffer>();

  constructor(native: Native, device: Device, shared: Residency, graph: ModelGraph, sumMode: 'exact' | 'fast', rows: number) {
    this.shared = shared;
    this.maxContext = shared.maxContext;
    for (const slot of graph.slots) if (slot.rows === 'batch') this.own.set(slot, native.bufferCreate(device, rows, slot.width));
    this.sum = native.sumCreate(device, sumMode, rows, graph.hidden);
    this.bytes = laneBytes(graph, rows);
  }

  buffer(of: Slot | Constant | Rope): DeviceBuffer {
    return this.own.get(of) ?? this.shared.buffer(of);
  }
  weight(of: Matrix): Weight {
    return this.shared.weight(of);
  }
  table(of: Embedding): Table {
    return this.shared.table(of);
  }
  kv(of: Cache): KvCache {
    return this.shared.kv(of);
  }
  experts(of: ExpertBank): Experts {
    return this.shared.experts(of);
  }
  nodeLimit(of: MoeNode): ReturnType<Handles['nodeLimit']> {
    return this.shared.nodeLimit(of);
  }
  grid(of: MoeNode): number {
    return this.shared.grid(of);
  }
}
