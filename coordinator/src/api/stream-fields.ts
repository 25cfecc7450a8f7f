import type { Fields } from './fields.ts';
import { Fields as FieldReader } from './fields.ts';

export interface StreamOptions {
  stream: boolean;
  includeUsage: boolean;
  continuousUsage: boolean;
}

export function readStreamFields(fields: Fields): StreamOptions {
  const stream = fields.flag('stream') ?? false;
  const given = fields.object('stream_options');
  if (given !== null && !stream) throw fields.invalid('stream_options', 'is given without stream: true');
  const options = new FieldReader(given ?? {}, 'stream_options');
  const continuousUsage = options.flag('continuous_usage_stats') ?? false;
  return { stream, includeUsage: options.flag('include_usage') ?? false, continuousUsage };
}
