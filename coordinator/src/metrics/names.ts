/** All metric names begin with it. */
export const metricPrefix = 'switchyard_';

/** Families that mean what vLLM's of the same suffix mean; `--metrics-compat vllm` exposes them under its names too. */
export const vllmSuffixes: readonly string[] = [
  'num_requests_running',
  'num_requests_waiting',
  'kv_cache_usage_perc',
  'prompt_tokens_total',
  'generation_tokens_total',
  'request_success_total',
  'num_preemptions_total',
  'prefix_cache_queries_total',
  'prefix_cache_hits_total',
  'spec_decode_num_draft_tokens_total',
  'spec_decode_num_accepted_tokens_total',
  'time_to_first_token_seconds',
  'inter_token_latency_seconds',
  'e2e_request_latency_seconds',
  'request_queue_time_seconds',
  'request_prefill_time_seconds',
  'request_decode_time_seconds',
  'request_inference_time_seconds',
  'request_prompt_tokens',
  'request_generation_tokens',
  'request_params_n',
  'request_params_max_tokens',
  'cache_config_info',
];

/** vLLM's buckets, seconds. */
export const firstTokenBuckets = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
export const interTokenBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
export const requestBuckets = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
/** Tokens of one request: 1, 2, 5 times powers of ten. */
export const tokenBuckets = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000];
/** Remote nodes per row: below 1 with good homes, at most all other nodes. */
export const remoteNodeBuckets = [0, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 16, 32];
export const choiceBuckets = [1, 2, 5, 10, 20];
