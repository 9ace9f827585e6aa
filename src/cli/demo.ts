/** `cmap demo`: the whole idea on embedded images, in one command. */
import { join } from 'node:path';
import { Command } from 'commander';
import { paperCifar10 } from '../cmap/options.ts';
import { loadFashionMnist } from '../data/fashion-mnist.ts';
import { InputError } from '../engine/errors.ts';
import { countRight, evaluate, type ImageRecord } from '../eval/evaluate.ts';
import { loadClassifier, loadConsistencyModel, preset } from '../models.ts';
import { writeTrace } from './figures.ts';
import { addCmapOptions, addCommonOptions, type CommonOptions, maybeProfiled, openDevice, parseInteger, parseNumber } from './options.ts';

interface DemoOptions extends CommonOptions {
  count?: number;
  eps: number;
  steps: number;
  out: string;
  k: number;
  iterations: number;
  lr: number;
  alpha: number;
  lambda: number;
  seed: number;
}

/** Images that fit the promised times: three minutes with SwiftShader, one with lavapipe, seconds on a GPU. */
export function defaultCount(adapter: { kind: string; source: string }): number {
  if (adapter.kind === 'hardware') return 64;
  return adapter.source === 'bundled' ? 4 : 8;
}
