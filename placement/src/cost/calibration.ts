import { SwitchyardError, type Topology } from '@switchyard/proto';
import type { DeviceModel } from './step-time.ts';

/** Measured constants of the cost model: `switchyard bench calibrate` writes them, `switchyard place --calibration` reads them. */
export interface Calibration {
  format: 'switchyard-calibration';
  version: 1;
  /** Where and how it was measured; free of meaning. */
  provenance: Record<string, unknown>;
  device: DeviceModel;
  /** In place of the topology's, where measured; bytes per second, seconds one way. */
  interNode: Topology['interNode'] | null;
  intraNode: Topology['intraNode'] | null;
}

const deviceFields = ['flopsPerRow', 'flopsPerSecond', 'memoryBytesPerSecond', 'densePerTokenSeconds', 'layerOverheadSeconds'] as const;

/** @throws bad_plan naming the field, its value and its limit */
export function parseCalibration(value: unknown): Calibration {
  const refuse = (field: string, shown: unknown, limit: string) =>
    new SwitchyardError('bad_plan', `calibration: ${field} is ${JSON.stringify(shown) ?? 'absent'}, must be ${limit}`, { param: field });
  const record = (field: string, of: unknown): Record<string, unknown> => {
    if (typeof of !== 'object' || of === null || Array.isArray(of)) throw refuse(field, of, 'an object');
    return of as Record<string, unknown>;
  };
  const file = record('file', value);
  if (file.format !== 'switchyard-calibration' || file.version !== 1)
    throw refuse('format', file.format, '"switchyard-calibration" version 1');
  const device = record('device', file.device);
  for (const field of deviceFields) {
    // A layer may cost nothing; a device of no speed computes nothing.
    const least = field.endsWith('Seconds') ? 0 : Number.MIN_VALUE;
    if (!(typeof device[field] === 'number' && Number.isFinite(device[field]) && (device[field] as number) >= least))
      throw refuse(`device.${field}`, device[field], least === 0 ? 'a number of at least 0' : 'a number above 0');
  }
  const link = (field: 'interNode' | 'intraNode') => {
    if (file[field] == null) return null;
    const { bandwidth, latency } = record(field, file[field]);
    if (!(typeof bandwidth === 'number' && Number.isFinite(bandwidth) && bandwidth > 0))
      throw refuse(`${field}.bandwidth`, bandwidth, 'a number above 0');
    if (!(typeof latency === 'number' && Number.isFinite(latency) && latency >= 0))
      throw refuse(`${field}.latency`, latency, 'a number of at least 0');
    return { bandwidth, latency };
  };
  return {
    format: 'switchyard-calibration',
    version: 1,
    provenance: typeof file.provenance === 'object' && file.provenance !== null ? (file.provenance as Record<string, unknown>) : {},
    device: Object.fromEntries(deviceFields.map((field) => [field, device[field]])) as unknown as DeviceModel,
    interNode: link('interNode'),
    intraNode: link('intraNode'),
  };
}

/** The topology with the links that were measured. A matrix of links says more than one measured link, and stays. */
export function calibratedTopology(topology: Topology, calibration: Calibration): Topology {
  return {
    ...topology,
    interNode: calibration.interNode ?? topology.interNode,
    intraNode: calibration.intraNode ?? topology.intraNode,
  };
}
