import type { Certificate, HostModel, LoadMatrix, RoutingTrace, TraceModel } from '@switchyard/placement';
import {
  calibratedTopology,
  checkSameShape,
  clusterOf,
  inWorkerOrder,
  loadsOfModel,
  openTrace,
  type PlanShape,
  parseCalibration,
  parseCertificate,
  traceOfModel,
} from '@switchyard/placement';
import { limits, type Plan, parsePlan, parseTopology, readBoundedFile, SwitchyardError, type Topology } from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { IdShape } from './option-values.ts';

/** Of a certificate: a price and a reference for every pair of experts of every layer. What is longer is no string of JavaScript. */
const certificateBytesMax = 511 * 2 ** 20;

function readDocument(path: string, what: string, bytesMax: number): string {
  try {
    return readBoundedFile(path, bytesMax).toString();
  } catch (error) {
    throw new CommandFailure(`cannot read the ${what} ${path}: ${(error as Error).message}`, { status: exitStatus.usage });
  }
}

function parsed<T>(path: string, what: string, parse: (text: string) => T, bytesMax: number = limits.planBytesMax): T {
  const text = readDocument(path, what, bytesMax);
  return inFile(path, () => parse(text));
}

/** What `read` says is wrong, with the file in which it is. */
function inFile<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof SyntaxError) throw new CommandFailure(`${path} is not JSON: ${error.message}`);
    if (error instanceof SwitchyardError) throw new CommandFailure(`${path}: ${error.message} (${error.code})`, { cause: error });
    throw error;
  }
}

export const readPlan = (path: string): Plan => parsed(path, 'plan', (text) => parsePlan(text));

/** A plan that was read, whose layers, experts and workers must be the given ones; it may list its workers in another order. */
export const planOfShape = (path: string, read: Plan, shape: PlanShape): Plan =>
  inFile(path, () => {
    const plan = inWorkerOrder(read, shape.workers);
    checkSameShape(plan, shape);
    return plan;
  });

/** A topology that solvers take: a number out of range is found here, before a long trace is read. */
export const readTopology = (path: string): Topology =>
  parsed(path, 'topology', (text) => {
    const topology = parseTopology(JSON.parse(text));
    clusterOf(topology);
    return topology;
  });
export const readCertificate = (path: string): Certificate =>
  parsed(path, 'certificate', (text) => parseCertificate(JSON.parse(text)), certificateBytesMax);

/** The cluster, and its hosts as measured; host null: not calibrated. */
export function readCluster(flags: { topology: string; calibration?: string }): { topology: Topology; host: HostModel | null } {
  const topology = readTopology(flags.topology);
  if (flags.calibration === undefined) return { topology, host: null };
  const calibration = parsed(flags.calibration, 'calibration', (text) => parseCalibration(JSON.parse(text)));
  return { topology: calibratedTopology(topology, calibration), host: calibration.host };
}

/** What is known of a trace beside its file. */
interface TraceHints {
  /** Of a dump of expert ids without `.shape.json`. */
  shape?: IdShape;
  /** Folder of the checkpoint that it is of: formats other than our own do not name its type, nor experts that no token chose. */
  modelDir?: string;
}

type TraceFile = { kind: 'routing'; trace: RoutingTrace } | { kind: 'loads'; loads: LoadMatrix; modelType?: string };

export async function readTrace(path: string, tokensMax: number, { shape, modelDir }: TraceHints = {}): Promise<TraceFile> {
  // A mistyped folder is found before a long trace is read.
  const model = modelDir === undefined ? null : await modelIn(modelDir);
  const input = await openFile(path, tokensMax, shape);
  if (model === null) return input;
  return input.kind === 'routing'
    ? { kind: 'routing', trace: traceOfModel(input.trace, model, path) }
    : { kind: 'loads', loads: loadsOfModel(input.loads, model, path), modelType: model.type };
}

async function modelIn(dir: string): Promise<TraceModel> {
  const { inspectModel } = await import('@switchyard/worker');
  const { modelType, moeLayers, experts, topK } = inspectModel(dir);
  return { type: modelType, moeLayers, experts, topK };
}

async function openFile(path: string, tokensMax: number, shape?: IdShape): Promise<TraceFile> {
  if (shape !== undefined && !/\.experts\.u8(\.gz)?$/.test(path))
    throw new CommandFailure(`--shape is for dumps of expert ids (*.experts.u8); ${path} is none`, { status: exitStatus.usage });
  try {
    return await openTrace(path, { tokensMax, shape: shape ?? null });
  } catch (error) {
    const { cause } = error as Error;
    if (!(cause instanceof Error && 'syscall' in cause)) throw error;
    // The name may be that of a file beside it.
    const reason = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : cause.message;
    throw new CommandFailure(`cannot read the trace ${path}: ${reason}`, { status: exitStatus.usage, cause: error });
  }
}

export async function readRouting(path: string, tokensMax: number, hints: TraceHints = {}): Promise<RoutingTrace> {
  const input = await readTrace(path, tokensMax, hints);
  if (input.kind !== 'routing')
    throw new CommandFailure(`${path} holds loads per expert only; this command needs which experts each token chose`);
  return input.trace;
}

export function jsonLine(value: unknown): string {
  return `${JSON.stringify(value)}\n`;
}
