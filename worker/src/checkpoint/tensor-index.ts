import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { limits } from '@switchyard/proto';
import { badCheckpoint, quoted, shown } from './bad-checkpoint.ts';
import { readJsonObject } from './json-file.ts';
import { readSafetensorsHeader, type TensorInfo } from './safetensors-header.ts';

const singleFile = 'model.safetensors';
const indexFile = 'model.safetensors.index.json';
/** The largest published models have some hundreds of shards. */
const shardsMax = 4096;

/** Every tensor of a model directory, from `model.safetensors` or from the shards of `model.safetensors.index.json`. */
export function readTensorIndex(dir: string): Map<string, TensorInfo> {
  const single = path.join(dir, singleFile);
  const [hasSingle, hasIndex] = [existsSync(single), existsSync(path.join(dir, indexFile))];
  // One of them is left over from what was saved here before, and readers differ in which they take.
  if (hasSingle && hasIndex) throw badCheckpoint(dir, `has both ${singleFile} and ${indexFile}: remove the one that is out of date`);
  if (hasIndex) return readShards(dir);
  if (hasSingle) return readSafetensorsHeader(single);
  const pickle = listDirectory(dir).find((name) => name.endsWith('.bin') || name.endsWith('.pt') || name.endsWith('.pth'));
  const hint = pickle === undefined ? '' : `; ${quoted(pickle)} is a pickle, which is never read: convert it to safetensors`;
  throw badCheckpoint(dir, `has neither ${singleFile} nor ${indexFile}${hint}`);
}

function listDirectory(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (cause) {
    throw badCheckpoint(dir, `cannot be read (${(cause as NodeJS.ErrnoException).code ?? 'error'})`, null, cause);
  }
}

function readShards(dir: string): Map<string, TensorInfo> {
  const indexPath = path.join(dir, indexFile);
  const shardOf = weightMap(indexPath);
  const shards = new Set(shardOf.values());
  if (shards.size > shardsMax) throw badCheckpoint(indexPath, `names more than ${shardsMax} files`);
  const tensors = new Map<string, TensorInfo>();
  // Shard by shard, so that what no index speaks of is never kept: headers are bounded, their sum is not.
  for (const shard of shards)
    for (const [name, tensor] of readSafetensorsHeader(path.join(dir, shard))) {
      if (shardOf.get(name) !== shard)
        throw badCheckpoint(
          path.join(dir, shard),
          `tensor ${quoted(name)} at offset ${tensor.offset} is not what ${indexFile} says of it`,
          name,
        );
      tensors.set(name, tensor);
    }
  for (const [name, shard] of shardOf)
    if (!tensors.has(name))
      throw badCheckpoint(path.join(dir, shard), `tensor ${quoted(name)} is missing, though ${indexFile} places it here`, name);
  return tensors;
}

function weightMap(indexPath: string): Map<string, string> {
  const map = readJsonObject(indexPath, limits.safetensorsHeaderBytesMax).weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw badCheckpoint(indexPath, 'weight_map is not an object', 'weight_map');
  const shardOf = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    // A shard is a plain file name beside the index: a path could lead anywhere.
    if (typeof shard !== 'string' || !/^[\w.-]+\.safetensors$/.test(shard) || shard.startsWith('.'))
      throw badCheckpoint(
        indexPath,
        `tensor ${quoted(name)}: file ${shown(shard)} is not the name of a .safetensors file in this directory`,
        name,
      );
    shardOf.set(name, shard);
  }
  return shardOf;
}
