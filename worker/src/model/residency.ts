import type {
  Device,
  DeviceBuffer,
  ExpertSources,
  Experts,
  KvCache,
  Native,
  NativeObject,
  Source,
  Table,
  Weight,
} from '@switchyard/native';
import { badCheckpoint, quoted } from '../checkpoint/bad-checkpoint.ts';
import type { MappedFiles } from '../checkpoint/mapped-files.ts';
import { type TensorView, viewBytes } from '../checkpoint/tensor-view.ts';
import type { NumericClass } from './contract.ts';
import { gridExponent, probedExperts, probeInput, probeRows, rootMeanSquare, typicalSize } from './contribution-grid.ts';
import type { Cache, Constant, Embedding, ExpertBank, ExpertViews, Handles, Matrix, ModelGraph, MoeNode, Slot } from './graph.ts';
import { blockTokens, commonBytes, kvBytesPerToken, logitBytes } from './memory.ts';
import type { NodeLimit } from './node-limit.ts';
import { expertBytes, expertDType, expertFormat, matrixFormat, storedFormat } from './numeric-class.ts';
import { fillRopeTable, type Rope } from './rope.ts';

/** What is decided about a model's memory before any of it is allocated. */
export interface MemoryPlan {
  numericClass: NumericClass;
  /** Rows of each lane. */
  laneRows: readonly number[];
  maxLogitRows: number;
  maxContext: number;
  kvBlocks: number;
  /** hosted[i]: expert ids of MoE layer i, in the order of their slots. */
  hosted: readonly (readonly number[])[];
  nodeLimit: NodeLimit | null;
}

/** One bounded piece of loading. */
export interface PackingStep {
  what: string;
  bytes: number;
  run(): void;
}

/** The native objects of a graph on one device, but for what batches write (`activations.ts`). They exist after construction; their contents do after every packing step has run. */
export class Residency implements Omit<Handles, 'sum'> {
  readonly maxContext: number;
  /** Bytes that weights, caches and logit rows take. */
  readonly residentBytes: number;
  private readonly native: Native;
  private readonly device: Device;
  private readonly files: MappedFiles;
  private readonly graph: ModelGraph;
  private readonly plan: MemoryPlan;
  private readonly objects = new Map<object, NativeObject>();
  /** expert id -> slot or -1, i32 (1, experts). */
  private readonly slotTables = new Map<MoeNode, DeviceBuffer>();
  /** Nodes of each expert as bits, i32 (1, experts), where tokens are kept on a few nodes. */
  private readonly nodeTables = new Map<MoeNode, DeviceBuffer>();
  private readonly grids = new Map<MoeNode, number>();

  constructor(native: Native, device: Device, files: MappedFiles, graph: ModelGraph, plan: MemoryPlan) {
    this.native = native;
    this.device = device;
    this.files = files;
    this.graph = graph;
    this.plan = plan;
    this.maxContext = plan.maxContext;
    for (const slot of graph.slots) if (slot.rows === 'logits') this.addBuffer(slot, plan.maxLogitRows, slot.width);
    for (const constant of graph.constants) this.addBuffer(constant, 1, constant.width);
    for (const rope of graph.ropes)
      fillRopeTable(rope, plan.maxContext, this.addBuffer(rope, rope.variants.length * plan.maxContext, rope.rotated).f32);
    for (const cache of graph.caches) this.addCache(cache);
    for (const matrix of graph.matrices) this.addMatrix(matrix);
    graph.moe.forEach((node, i) => {
      this.addExperts(node, plan.hosted[i]!);
      if (plan.nodeLimit !== null) this.addNodes(node, plan.nodeLimit.holders[i]!);
    });
    const { numericClass, hosted, kvBlocks } = plan;
    const expertsBytes = graph.moe.reduce((sum, { bank }, i) => sum + hosted[i]!.length * expertBytes(bank, numericClass), 0);
    const cacheBytes = kvBlocks * blockTokens * kvBytesPerToken(graph, numericClass);
    this.residentBytes =
      commonBytes(graph, numericClass, plan.maxContext) + logitBytes(graph, plan.maxLogitRows) + expertsBytes + cacheBytes;
  }

  buffer(of: Slot | Constant | Rope): DeviceBuffer {
    return this.get(of, 'buffer');
  }
  weight(of: Matrix): Weight {
    return this.get(of, 'weight');
  }
  table(of: Embedding): Table {
    return this.get(of, 'table');
  }
  kv(of: Cache): KvCache {
    return this.get(of, 'kv');
  }
  experts(of: ExpertBank): Experts {
    return this.get(of, 'experts');
  }
  slots(of: MoeNode): DeviceBuffer {
    return this.slotTables.get(of)!;
  }
  grid(of: MoeNode): number {
    const grid = this.grids.get(of);
    if (grid === undefined) throw new Error(`the grid of layer ${of.layer} is not known before its experts are loaded`);
    return grid;
  }

  nodeLimit(of: MoeNode): { of: DeviceBuffer; limit: number } | null {
    const { nodeLimit } = this.plan;
    return nodeLimit && { of: this.nodeTables.get(of)!, limit: nodeLimit.nodes };
  }

  /** Everything that reads the checkpoint, in the order of its layers. */
  packingSteps(): PackingStep[] {
    const { constants, matrices, moe } = this.graph;
    return [
      ...constants.map((constant) => this.constantStep(constant)),
      ...matrices.map((matrix) => this.matrixStep(matrix)),
      ...moe.flatMap((node, i) => [
        this.gridStep(node),
        ...this.plan.hosted[i]!.map((expert, slot) => this.expertStep(node, expert, slot)),
      ]),
    ];
  }

  /** Tables go on reading their file. They are opened last, so that only what they touch of it stays in memory. */
  openTables(): void {
    for (const table of this.graph.tables)
      this.objects.set(table, this.native.tableCreate(this.device, this.files.watchedSource(table.view)));
  }

  private addBuffer(key: Slot | Constant | Rope, rows: number, width: number): DeviceBuffer {
    const buffer = this.native.bufferCreate(this.device, rows, width);
    this.objects.set(key, buffer);
    return buffer;
  }

  private addCache(cache: Cache): void {
    const { numericClass, kvBlocks } = this.plan;
    const { kvHeads, kDim, vDim, vSharesK } = cache;
    this.objects.set(cache, this.native.kvCreate(this.device, kvBlocks, kvHeads, kDim, vDim, numericClass.activations, vSharesK));
  }

  private addMatrix(matrix: Matrix): void {
    const format = matrixFormat(matrix, this.plan.numericClass);
    this.objects.set(matrix, this.native.weightCreate(this.device, format, matrix.n, matrix.k));
  }

  private addExperts(node: MoeNode, hosted: readonly number[]): void {
    const { bank } = node;
    const format = expertFormat(bank, this.plan.numericClass);
    this.objects.set(bank, this.createExperts(bank, Math.max(1, hosted.length), format));
    const table = this.native.bufferCreate(this.device, 1, bank.views.length);
    table.i32.fill(-1);
    hosted.forEach((expert, slot) => {
      table.i32[expert] = slot;
    });
    this.slotTables.set(node, table);
  }

  private addNodes(node: MoeNode, holders: Int32Array): void {
    const table = this.native.bufferCreate(this.device, 1, holders.length);
    table.i32.set(holders);
    this.nodeTables.set(node, table);
  }

  private createExperts(bank: ExpertBank, slots: number, format: ReturnType<typeof expertFormat>): Experts {
    const { hidden, inter, activation, alpha, limit } = bank;
    return this.native.expertsCreate(this.device, { slots, hidden, inter, format, activation, hasBias: hasBias(bank), alpha, limit });
  }

  private constantStep(constant: Constant): PackingStep {
    const views = constant.pieces.map((piece) => piece.view);
    return step(constant.name, views, () => {
      for (const { at, view } of constant.pieces) this.native.bufferLoad(this.buffer(constant), at, this.files.source(view));
    });
  }

  private matrixStep(matrix: Matrix): PackingStep {
    const views = matrix.pieces.map((piece) => piece.view);
    return step(matrix.name, views, () => {
      for (const { row, view } of matrix.pieces) this.native.weightSet(this.weight(matrix), row, this.files.source(view));
    });
  }

  private expertStep({ layer, bank }: MoeNode, expert: number, slot: number): PackingStep {
    const views = bank.views[expert]!;
    return step(`layers.${layer}.experts.${expert}`, matricesOf(views), () => {
      this.native.expertsSet(this.experts(bank), slot, this.expertSources(views));
    });
  }

  /** See `contribution-grid.ts`: experts as stored, with f32 inputs, whether this worker hosts them or not. */
  private gridStep(node: MoeNode): PackingStep {
    const { layer, bank, inputNorm, inputNormPlus, typicalWeight } = node;
    const probed = probedExperts(bank.views.length);
    const views = probed.flatMap((expert) => matricesOf(bank.views[expert]!));
    return step(`layers.${layer}.grid`, views, () => {
      const norm = this.buffer(inputNorm).f32;
      requireFinite(inputNorm, norm);
      const input = probeInput(norm, inputNormPlus);
      const slot = this.createExperts(bank, 1, storedFormat(expertDType(bank)));
      const sizes = probed.map((expert) => this.answerSize(node, expert, slot, input));
      this.native.objectFree(slot);
      this.grids.set(node, gridExponent(typicalSize(sizes) * typicalWeight, this.plan.numericClass.activations));
    });
  }

  /** Root mean square of what an expert answers to the rows of `input`, when it is put into this slot. */
  private answerSize({ layer, bank }: MoeNode, expert: number, slot: Experts, input: Float32Array): number {
    const views = bank.views[expert]!;
    this.native.expertsSet(slot, 0, this.expertSources(views));
    const out = new Float32Array(probeRows * bank.hidden);
    this.native.expertsProbe(slot, 0, input, probeRows, out);
    const size = rootMeanSquare(out);
    if (Number.isFinite(size)) return size;
    const { tensor } = views.down;
    throw badCheckpoint(
      tensor.file,
      `tensor ${quoted(tensor.name)} at offset ${tensor.offset}: expert ${expert} of layer ${layer} answers ${size}`,
      tensor.name,
    );
  }

  private expertSources(views: ExpertViews): ExpertSources {
    const source = (view: TensorView): Source => this.files.source(view);
    const optional = (view: TensorView | null): Source | null => view && source(view);
    const { gate, up, down, gateBias, upBias, downBias } = views;
    return {
      gate: source(gate),
      up: source(up),
      down: source(down),
      gateBias: optional(gateBias),
      upBias: optional(upBias),
      downBias: optional(downBias),
    };
  }

  private get<T extends NativeObject>(key: object, type: T['type']): T {
    const object = this.objects.get(key);
    if (object?.type !== type) throw new Error(`an op names a ${type} that the graph does not hold`);
    return object as T;
  }
}

function step(what: string, views: readonly TensorView[], run: () => void): PackingStep {
  return { what, bytes: views.reduce((sum, view) => sum + viewBytes(view), 0), run };
}

function matricesOf({ gate, up, down }: ExpertViews): TensorView[] {
  return [gate, up, down];
}

/** Else the experts that read it would be blamed. */
function requireFinite({ pieces }: Constant, values: Float32Array): void {
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong < 0) return;
  const { tensor } = pieces.findLast(({ at }) => at <= wrong)!.view;
  throw badCheckpoint(
    tensor.file,
    `tensor ${quoted(tensor.name)} at offset ${tensor.offset}: element ${wrong} is ${values[wrong]}`,
    tensor.name,
  );
}

function hasBias(bank: ExpertBank): boolean {
  return bank.views[0]!.gateBias !== null;
}
