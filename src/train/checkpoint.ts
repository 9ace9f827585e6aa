/**
 * A run's state in one safetensors file: `model.…` (with running statistics), `ema_RATE.…`, `optimiser.m.…` and so on, all in the
 * published layouts, so that `--weights` of other commands reads the moving average from it; configuration, step and seed are
 * metadata. Batches, noise and masks are functions of the step: nothing else is needed to go on bit for bit.
 */
import { CmapError, InputError } from '../engine/errors.ts';
import type { Tensor } from '../engine/tensor.ts';
import { openSafetensors, writeSafetensors } from '../formats/safetensors.node.ts';
import { deviceLayout, fileLayout, type Parameter, unbindParameters } from '../nets/parameters.ts';
import { defaults, resumable, spread, steerable, type TrainConfig } from './config.ts';
import type { Session } from './session.ts';

/** Every tensor of the state by its name in the file. */
function stateOf({ store, step, config }: Session): { key: string; tensor: Tensor; parameter: Parameter }[] {
  const declared = (name: string) => store.declared.get(name) as Parameter;
  const part = (prefix: string, tensors: readonly Tensor[]) =>
    store.names.map((name, i) => ({
      key: `${prefix}.${name}`,
      tensor: tensors[i] as Tensor,
      parameter: declared(name),
    }));
  const still = [...store.declared.keys()].filter((name) => !store.names.includes(name));
  const others = (prefix: string) =>
    still.map((name) => ({
      key: `${prefix}.${name}`,
      tensor: store.parameters.get(name),
      parameter: declared(name),
    }));
  return [
    ...part('model', store.tensors),
    ...others('model'),
    ...store.averages.flatMap((average, a) => {
      const rate = config.averages[a];
      // The target of a pair is no result: it is kept where no reader takes it for the network.
      if (rate === undefined) return part('optimiser.target', average);
      return [...part(`ema_${rate}`, average), ...others(`ema_${rate}`)];
    }),
    ...step.optimiser.slotNames.flatMap((slot, s) =>
      part(
        `optimiser.${slot}`,
        step.optimiser.slots.map((slots) => slots[s] as Tensor),
      ),
    ),
  ];
}

/** A state that no run could go on from. */
export class NotFiniteError extends CmapError {}

/**
 * @param done updates that are in the state
 * @throws InputError when it cannot be written; NotFiniteError, with the old file left, when a number of it is not finite
 */
export async function saveCheckpoint(path: string, session: Session, done: number): Promise<void> {
  const tensors: Record<string, { shape: readonly number[]; data: Float32Array }> = {};
  for (const { key, tensor, parameter } of stateOf(session)) {
    const values = await tensor.floats();
    if (!values.every(Number.isFinite))
      throw new NotFiniteError(`after update ${done} ${key} holds numbers that are not finite`);
    tensors[key] = { shape: parameter.file, data: fileLayout(parameter, values) };
  }
  writeSafetensors(path, tensors, {
    step: String(done),
    seed: String(session.config.seed),
    adapter: session.device.adapter.name,
    config: JSON.stringify(session.config),
  });
}

/** What a checkpoint says of its run. */
export interface SavedRun {
  /** Updates made. */
  readonly step: number;
  readonly config: TrainConfig;
  /** Name of the adapter that made the last of them. */
  readonly adapter: string;
}

/** Reads no tensor. @throws InputError when the file is no checkpoint */
export function savedRun(path: string): SavedRun {
  const file = openSafetensors(path);
  file.close();
  const { step, config, adapter = '' } = file.metadata;
  const done = Number(step);
  if (step === undefined || config === undefined || !Number.isSafeInteger(done))
    throw new InputError(
      `${path}: no checkpoint of a training run: it says no step; take its weights with init=${path}`,
    );
  // A setting that came later had its default.
  let settings: unknown;
  try {
    settings = JSON.parse(config);
  } catch {}
  if (typeof settings !== 'object' || settings === null)
    throw new InputError(`${path}: its configuration is no JSON object, the file was changed`);
  return { step: done, config: { ...defaults, ...(settings as TrainConfig) }, adapter };
}

/**
 * Puts a saved state into a session of a configuration that continues it.
 * @throws InputError when the file is no checkpoint of this network
 */
export function loadCheckpoint(path: string, session: Session): void {
  const file = openSafetensors(path);
  try {
    for (const { key, tensor, parameter } of stateOf(session)) {
      const shape = file.names.includes(key) ? file.shape(key) : [];
      if (String(shape) !== String(parameter.file))
        throw new InputError(`${path}: ${key} is [${shape}], the run wants [${parameter.file}]`);
      tensor.write(deviceLayout(parameter, file.read(key) as Float32Array));
    }
  } finally {
    file.close();
  }
}

/**
 * Whether a run may go on with these settings.
 * @returns those of `steerable` that are new
 * @throws InputError for another setting that was different, or steps that do not continue it
 */
export function continued(
  path: string,
  { step, config: saved }: SavedRun,
  now: TrainConfig,
): Partial<Pick<TrainConfig, (typeof steerable)[number]>> {
  const differs = (key: keyof TrainConfig) => JSON.stringify(saved[key]) !== JSON.stringify(now[key]);
  const anew = `begin anew with init=${path}`;
  for (const key of Object.keys(now) as (keyof TrainConfig)[]) {
    if (resumable.includes(key) || (steerable as readonly string[]).includes(key) || !differs(key)) continue;
    const [was, is] = [JSON.stringify(saved[key]), JSON.stringify(now[key])];
    throw new InputError(`${path}: was trained with ${key}=${was}, not ${is}; leave it out, or ${anew}`);
  }
  const stretched = spread(saved);
  if (differs('steps') && stretched !== null)
    throw new InputError(
      `${path}: was begun with steps=${saved.steps}, over which ${stretched} spreads: with ${now.steps} its ${step} updates would have been others; leave it out, or ${anew}`,
    );
  if (now.steps < step)
    throw new InputError(
      `${path}: has had ${step} updates, more than steps=${now.steps}; take a larger number`,
    );
  return Object.fromEntries(steerable.filter(differs).map((key) => [key, now[key]]));
}

/** The result alone, under the published names: what other commands load. */
export async function saveResult(path: string, session: Session, done: number): Promise<void> {
  const { store, config } = session;
  const tensors = await unbindParameters(store.declared, session.result());
  writeSafetensors(path, tensors, { step: String(done), config: JSON.stringify(config) });
}
