import type { Plan } from '@switchyard/proto';

/** What `switchyard up --json` prints, once, when the server is ready. */
export interface UpReport {
  format: 'switchyard-up';
  version: 1;
  url: string;
  model: string;
  modelDir: string;
  readySeconds: number;
  numericClass: string | null;
  /** Checksum of the plan. */
  plan: string;
  /** What any other plan for this model has to cover. */
  planModel: Plan['model'];
  workers: UpWorker[];
}

export interface UpWorker {
  name: string;
  node: string;
  pid: number;
  threads: number;
  cpus: number[] | null;
  /** (layer, expert) replicas that it holds. */
  experts: number;
  residentBytes: number;
  addresses: string[];
}
