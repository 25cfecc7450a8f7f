import { documentFields, type Topology } from '@switchyard/proto';
import type { HostModel } from './host-model.ts';

/** Measured constants of the cost model, in seconds: `switchyard bench calibrate` writes them, `switchyard place --calibration` reads them. */
export interface Calibration {
  format: 'switchyard-calibration';
  version: 1;
  /** Where and how it was measured; free of meaning. */
  provenance: Record<string, unknown>;
  host: HostModel;
  /** In place of the topology's, where measured; bytes per second, seconds one way. */
  interNode: Topology['interNode'] | null;
  intraNode: Topology['intraNode'] | null;
}

const hostFields: { readonly [part in Exclude<keyof HostModel, 'wake'>]: readonly (keyof HostModel[part] & string)[] } = {
  step: ['fixed', 'perRow', 'perToken'],
  segment: ['fixed', 'perRow', 'perContext'],
  experts: ['fixed', 'perRow', 'perExpert'],
  frame: ['fixed', 'perByte'],
  outside: ['perRequest', 'perStep', 'perToken'],
};

const { refusal, record, amount, positive } = documentFields('calibration', 'bad_plan');

/** @throws bad_plan naming the field, its value and its limit */
export function parseCalibration(value: unknown): Calibration {
  const file = record('file', value);
  if (file.format !== 'switchyard-calibration' || file.version !== 1)
    throw refusal('format', file.format, '"switchyard-calibration" version 1');
  const given = record('host', file.host);
  const host: Record<string, unknown> = { wake: amount('host.wake', given.wake) };
  for (const [part, fields] of Object.entries(hostFields)) {
    const costs = record(`host.${part}`, given[part]);
    host[part] = Object.fromEntries(fields.map((field) => [field, amount(`host.${part}.${field}`, costs[field])]));
  }
  const link = (field: 'interNode' | 'intraNode') => {
    if (file[field] == null) return null;
    const { bandwidth, latency } = record(field, file[field]);
    return { bandwidth: positive(`${field}.bandwidth`, bandwidth), latency: amount(`${field}.latency`, latency) };
  };
  return {
    format: 'switchyard-calibration',
    version: 1,
    provenance: typeof file.provenance === 'object' && file.provenance !== null ? (file.provenance as Record<string, unknown>) : {},
    host: host as unknown as HostModel,
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
