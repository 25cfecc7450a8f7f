import { readFileSync, statSync, writeFileSync } from 'node:fs';
import type { Certificate, HostModel, LoadMatrix, RoutingTrace } from '@switchyard/placement';
import { calibratedTopology, openTrace, parseCalibration } from '@switchyard/placement';
import { limits, type Plan, type Topology } from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';

function readJson(path: string, what: string): Record<string, unknown> {
  let text: string;
  try {
    const { size } = statSync(path);
    if (size > limits.planBytesMax) throw new CommandFailure(`${path}: ${size} bytes, a ${what} has at most ${limits.planBytesMax}`);
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof CommandFailure) throw error;
    throw new CommandFailure(`cannot read the ${what} ${path}: ${(error as Error).message}`, { status: exitStatus.usage });
  }
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new CommandFailure(`${path} is not JSON: ${(error as Error).message}`);
  }
}

function expectFormat<T>(path: string, what: string, format: string): T {
  const value = readJson(path, what);
  if (value.format !== format || value.version !== 1)
    throw new CommandFailure(
      `${path}: format is ${JSON.stringify(value.format)} version ${JSON.stringify(value.version)}, expected "${format}" version 1`,
    );
  return value as T;
}

export const readPlan = (path: string): Plan => expectFormat<Plan>(path, 'plan', 'switchyard-plan');
export const readTopology = (path: string): Topology => expectFormat<Topology>(path, 'topology', 'switchyard-topology');
export const readCertificate = (path: string): Certificate => expectFormat<Certificate>(path, 'certificate', 'switchyard-certificate');

/** The cluster, and its hosts as measured; host null: not calibrated. */
export function readCluster(flags: { topology: string; calibration?: string }): { topology: Topology; host: HostModel | null } {
  const topology = readTopology(flags.topology);
  if (flags.calibration === undefined) return { topology, host: null };
  const calibration = parseCalibration(readJson(flags.calibration, 'calibration'));
  return { topology: calibratedTopology(topology, calibration), host: calibration.host };
}

export async function readTrace(
  path: string,
  tokensMax: number,
): Promise<{ kind: 'routing'; trace: RoutingTrace } | { kind: 'loads'; loads: LoadMatrix }> {
  try {
    return await openTrace(path, { tokensMax });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT')
      throw new CommandFailure(`cannot read the trace ${path}: no such file`, { status: exitStatus.usage });
    throw error;
  }
}

export async function readRouting(path: string, tokensMax: number): Promise<RoutingTrace> {
  const input = await readTrace(path, tokensMax);
  if (input.kind !== 'routing')
    throw new CommandFailure(`${path} holds loads per expert only; this command needs which experts each token chose`);
  return input.trace;
}

export function writeJson(path: string, value: unknown): void {
  writeFileSync(path, `${JSON.stringify(value)}\n`);
}
