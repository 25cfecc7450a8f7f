import type { Batch, Device, DeviceBuffer, Op, Program } from '@switchyard/native';
import { native, ops } from '@switchyard/native';
import type { MappedFiles } from '../checkpoint/mapped-files.ts';
import type { LoadOptions, Model, ModelShape, MoeLayer } from './contract.ts';
import type { ModelGraph } from './graph.ts';
import { blockTokens, kvBytesPerToken } from './memory.ts';
import type { MemoryPlan, Residency } from './residency.ts';
import { rowChecks } from './row-checks.ts';

/** A graph whose weights are resident, compiled into native programs. */
export class CompiledModel implements Model {
  readonly shape: ModelShape;
  readonly device: Device;
  readonly moe: readonly MoeLayer[];
  readonly runWhole: ((batch: Batch) => void) | null;
  readonly logits: DeviceBuffer;
  readonly residentBytes: number;
  private readonly graph: ModelGraph;
  private readonly residency: Residency;
  private readonly files: MappedFiles;
  private readonly options: LoadOptions;
  private readonly segments: readonly Program[];
  private readonly whole: Program | null;
  /** By segment, the whole last: what each op means that finds a row incomplete. */
  private readonly checks: readonly ReadonlyMap<number, string>[];
  private closed = false;

  constructor(graph: ModelGraph, residency: Residency, device: Device, files: MappedFiles, plan: MemoryPlan, options: LoadOptions) {
    this.graph = graph;
    this.residency = residency;
    this.device = device;
    this.files = files;
    this.options = options;
    this.shape = shapeOf(graph, plan);
    this.logits = residency.buffer(graph.logits);
    this.residentBytes = residency.residentBytes;
    this.moe = graph.moe.map((node) => ({
      layer: node.layer,
      x: residency.buffer(node.x),
      ids: residency.buffer(node.ids),
      weights: residency.buffer(node.weights),
      sum: residency.sum,
      experts: residency.experts(node.bank),
      slotOf: residency.slots(node).i32,
      grid: residency.grid(node),
    }));

    const segments = graph.segments.map((recipes) => recipes.map((recipe) => recipe(residency)));
    const compile = (list: Op[]) => native.programCreate(device, list, plan.maxBatchRows, options.maxSequences, plan.maxContext);
    this.segments = segments.map(compile);
    const joined = this.joined(segments);
    const whole = plan.hosted.every((hosted) => hosted.length === graph.experts) ? compile(joined) : null;
    this.checks = [...segments.map((list, i) => rowChecks(list, this.moe, i, i - 1)), rowChecks(joined, this.moe, 0, 0)];
    this.whole = whole;
    this.runWhole = whole && ((batch) => native.programRun(whole, batch));
  }

  runSegment(index: number, batch: Batch): void {
    native.programRun(this.segments[index]!, batch);
  }

  rowFailure(segment: number | null, status: number): string {
    return this.checks[segment ?? this.segments.length]!.get(status - 1)!;
  }

  createBatch(): Batch {
    const { maxBatchRows, maxSequences, maxLogitRows } = this.options;
    return native.batchCreate(maxBatchRows, maxSequences, Math.ceil(this.shape.maxContext / blockTokens), maxLogitRows);
  }

  copyBlock(from: number, to: number): void {
    for (const cache of this.graph.caches) native.kvCopyBlock(this.residency.kv(cache), from, to);
  }

  ropeVariant(maxLength: number): number {
    return this.graph.ropes.some((rope) => maxLength > rope.longAfter) ? 1 : 0;
  }

  times(): Record<string, number> {
    const total: Record<string, number> = {};
    for (const program of this.whole === null ? this.segments : [...this.segments, this.whole])
      for (const [kind, seconds] of Object.entries(native.programTimes(program))) total[kind] = (total[kind] ?? 0) + seconds;
    return total;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    native.deviceClose(this.device);
    this.files.release();
  }

  /** All segments with the layers' experts between them. */
  private joined(segments: readonly Op[][]): Op[] {
    return segments.flatMap((segment, i) => {
      const node = this.graph.moe[i];
      const layer = this.moe[i];
      if (node === undefined || layer === undefined) return segment;
      const { x, ids, weights, experts, sum, grid } = layer;
      return [...segment, ops.experts({ x, ids, weights, experts, sum, slots: this.residency.slots(node), k: this.graph.topK, grid })];
    });
  }
}

function shapeOf(graph: ModelGraph, plan: MemoryPlan): ModelShape {
  return {
    modelType: graph.modelType,
    vocab: graph.vocab,
    hidden: graph.hidden,
    layers: graph.layers,
    moeLayers: graph.moe.map((node) => node.layer),
    experts: graph.experts,
    topK: graph.topK,
    maxContext: plan.maxContext,
    blockTokens,
    kvBlocks: plan.kvBlocks,
    kvBytesPerToken: kvBytesPerToken(graph, plan.numericClass),
    numericClass: plan.numericClass,
  };
}
