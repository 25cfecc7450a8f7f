/** What `switchyard up` was asked for, after parsing. */
export interface UpOptions {
  model: string;
  name?: string;
  nodes: number;
  workersPerNode: number;
  plan?: string;
  host: string;
  port: number;
  apiKeyFile?: string;
  numeric: 'auto' | 'f32' | 'bf16';
  expertDtype: 'stored' | 'int8' | 'int4';
  denseDtype: 'stored' | 'int8';
  sum: 'exact' | 'fast';
  transport: 'uds' | 'tcp' | 'grpc';
  maxContext: number;
  kvBytes: number;
  maxBatchRows: number;
  maxSequences: number;
  prefixCache: boolean;
  threads?: number;
  pin: boolean;
  grace: number;
}
