import path from 'node:path';
import { limits } from '@switchyard/proto';
import { ConfigReader } from './config-reader.ts';
import { readJsonObject } from './json-file.ts';
import { type Quantisation, readQuantisation } from './quantisation.ts';
import { readTensorIndex } from './tensor-index.ts';
import { Tensors } from './tensors.ts';

/** A Hugging Face model directory: its configuration and the headers of its tensors, validated. No weight has been read. */
export interface Checkpoint {
  readonly dir: string;
  readonly config: ConfigReader;
  readonly quantisation: Quantisation;
  readonly tensors: Tensors;
}

/** Throws `bad_checkpoint` for anything that is not a readable model directory. */
export function openCheckpoint(dir: string): Checkpoint {
  const configPath = path.join(dir, 'config.json');
  const config = new ConfigReader(configPath, readJsonObject(configPath, limits.configBytesMax));
  const quantisation = readQuantisation(config);
  return { dir, config, quantisation, tensors: new Tensors(dir, readTensorIndex(dir), quantisation) };
}
