import type { Batch, Device, DeviceBuffer, Op, Program } from '@switchyard/native';
import { native, ops } from '@switchyard/native';
import type { MappedFiles } from '../checkpoint/mapped-files.ts';
import { Activations } from './activations.ts';
import type { LoadOptions, Model, ModelLane, ModelShape, MoeLayer } from './contract.ts';
import type { ModelGraph } from './graph.ts';
import { blockTokens, kvBytesPerToken } from './memory.ts';
import type { MemoryPlan, Residency } from './residency.ts';
import { rowChecks } from './row-checks.ts';

/** A graph whose weights are resident, compiled into native programs. */
export class CompiledModel implements Model {
  readonly shape: ModelShape;
  readonly device: Device;
  readonly lanes: readonly CompiledLane[];
  readonly residentBytes: number;
  private readonly graph: ModelGraph;
  private readonly files: MappedFiles;
  private closed = false;

  constructor(graph: ModelGraph, residency: Residency, device: Device, files: MappedFiles, plan: MemoryPlan, options: LoadOptions) {
    this.graph = graph;
    this.device = device;
    this.files = files;
    this.shape = shapeOf(graph, plan);
    this.lanes = plan.laneRows.map((rows) => new CompiledLane(graph, residency, device, plan, options, rows));
    this.residentBytes = this.lanes.reduce((bytes, lane) => bytes + lane.bytes, residency.residentBytes);
  }

  get maxRows(): number {
    return this.lanes[0]!.maxRows;
  }

  get moe(): readonly MoeLayer[] {
    return this.lanes[0]!.moe;
  }

  get logits(): DeviceBuffer {
    return this.lanes[0]!.logits;
  }

  get runWhole(): ((batch: Batch) => void) | null {
    return this.lanes[0]!.runWhole;
  }

  runSegment(index: number, batch: Batch): void {
    this.lanes[0]!.runSegment(index, batch);
  }

  rowFailure(segment: number | null, status: number): string {
    return this.lanes[0]!.rowFailure(segment, status);
  }

  createBatch(): Batch {
    return this.lanes[0]!.createBatch();
  }

  ropeVariant(maxLength: number): number {
    return this.graph.ropes.some((rope) => maxLength > rope.longAfter) ? 1 : 0;
  }

  times(): Record<string, number> {
    const total: Record<string, number> = {};
    for (const program of this.lanes.flatMap((lane) => lane.programs))
      for (const [kind, seconds] of Object.entries(native.programTimes(program))) total[kind] = (total[kind] ?? 0) + seconds;
    return total;
  }

  writtenFile(): string | null {
    return this.files.writtenFile;
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    native.deviceClose(this.device);
    this.files.release();
  }
}

/** The programs of one lane, over activations of its own. */
class CompiledLane implements ModelLane {
  readonly maxRows: number;
  readonly moe: readonly MoeLayer[];
  readonly runWhole: ((batch: Batch) => void) | null;
  readonly logits: DeviceBuffer;
  readonly bytes: number;
  readonly programs: readonly Program[];
  /** By segment, the whole last: what each op means that finds a row incomplete. */
  private readonly checks: readonly ReadonlyMap<number, string>[];
  private readonly options: LoadOptions;
  private readonly maxContext: number;

  constructor(graph: ModelGraph, residency: Residency, device: Device, plan: MemoryPlan, options: LoadOptions, rows: number) {
    this.maxRows = rows;
    this.options = options;
    this.maxContext = plan.maxContext;
    const activations = new Activations(native, device, residency, graph, plan.numericClass.sum, rows);
    this.bytes = activations.bytes;
    this.logits = residency.buffer(graph.logits);
    this.moe = graph.moe.map((node) => ({
      layer: node.layer,
      x: activations.buffer(node.x),
      ids: activations.buffer(node.ids),
      weights: activations.buffer(node.weights),
      sum: activations.sum,
      experts: residency.experts(node.bank),
      slotOf: residency.slots(node).i32,
      grid: residency.grid(node),
    }));
    const segments = graph.segments.map((recipes) => recipes.map((recipe) => recipe(activations)));
    const compile = (list: Op[]) => native.programCreate(device, list, rows, options.maxSequences, plan.maxContext);
    const programs = segments.map(compile);
    const hostsAll = plan.hosted.every((hosted) => hosted.length === graph.experts);
    const all = joined(segments, graph, this.moe, residency);
    const whole = hostsAll ? compile(all) : null;
    this.checks = [...segments.map((list, i) => rowChecks(list, this.moe, i, i - 1)), rowChecks(all, this.moe, 0, 0)];
    this.runWhole = whole && ((batch) => native.programRun(whole, batch));
    this.programs = whole === null ? programs : [...programs, whole];
  }

  runSegment(index: number, batch: Batch): void {
    native.programRun(this.programs[index]!, batch);
  }

  rowFailure(segment: number | null, status: number): string {
    return this.checks[segment ?? this.moe.length + 1]!.get(status - 1)!;
  }

  createBatch(): Batch {
    const { maxSequences, maxLogitRows } = this.options;
    return native.batchCreate(this.maxRows, maxSequences, Math.ceil(this.maxContext / blockTokens), maxLogitRows);
  }
}

/** All segments with the layers' experts between them. */
function joined(segments: readonly Op[][], { moe, topK }: ModelGraph, layers: readonly MoeLayer[], residency: Residency): Op[] {
  return segments.flatMap((segment, i) => {
    const node = moe[i];
    const layer = layers[i];
    if (node === undefined || layer === undefined) return segment;
    const { x, ids, weights, experts, sum, grid } = layer;
    return [...segment, ops.experts({ x, ids, weights, experts, sum, slots: residency.slots(node), k: topK, grid })];
  });
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
