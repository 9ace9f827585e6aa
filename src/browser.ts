/// <reference types="@webgpu/types" preserve="true" />
/**
 * The public API for browsers: all that needs neither files nor Node, and the shipped networks over HTTP. index.ts has this, too.
 */
import type { Device } from './engine/device.ts';
import { InputError } from './engine/errors.ts';
import type { ManifestEntry } from './formats/manifest.ts';
import { parseSafetensors } from './formats/safetensors.ts';
import {
  classifierOf,
  consistencyModelOf,
  type LoadedClassifier,
  type LoadedModel,
  type Preset,
  presetFrom,
} from './shipped.ts';

export { Apgd, type ApgdOptions } from './attacks/apgd.ts';
export {
  type Attack,
  type AttackHooks,
  type AttackResult,
  defaultStepSize,
  type ImageTrace,
  type Norm,
} from './attacks/attack.ts';
export { AutoAttack, type AutoAttackOptions, type AutoAttackResult } from './attacks/autoattack.ts';
export { Disruption, type DisruptionOptions, latentTau, publishedTau } from './attacks/disruption.ts';
export { Fab, type FabOptions } from './attacks/fab.ts';
export { Fgsm, type FgsmOptions } from './attacks/fgsm.ts';
export { attackLoss, type Loss, type LossName } from './attacks/losses.ts';
export { LowFrequency, type LowFrequencyOptions } from './attacks/low-frequency.ts';
export { Noise, type NoiseOptions } from './attacks/noise.ts';
export { checkPgdOptions, Pgd, type PgdOptions, pgd } from './attacks/pgd.ts';
export { type PortfolioOptions, portfolio } from './attacks/portfolio.ts';
export type { Eot } from './attacks/query.ts';
export { Square, type SquareOptions } from './attacks/square.ts';
export { publishedAttackSigma, surrogate } from './attacks/surrogate.ts';
export type { Draw, GraphTarget, Process, ProcessTarget, Target } from './attacks/target.ts';
export { ThroughCmap, type ThroughCmapOptions, type UnrollOptions } from './attacks/through-cmap.ts';
export { type Distance, generate, type Objective, objective } from './cmap/objective.ts';
export { type CmapOptions, checkCmapOptions, paperCifar10, paperImageNet100 } from './cmap/options.ts';
export { type Purified, type PurifyHooks, purify, type TraceEntry } from './cmap/purify.ts';
export {
  type Classifier,
  classify,
  classifyByVote,
  classifyEach,
  countVotes,
  type Vote,
} from './cmap/vote.ts';
export { cifar10Classes, fashionMnistClasses } from './data/labels.ts';
export { paperSubset } from './data/subset.ts';
export { centerCrop, evaluationTransform, resizeBilinear } from './data/transforms.ts';
export { type AdpSettings, adp, adpDefaults } from './defences/adp.ts';
export { bitDepthDefence } from './defences/bits.ts';
export { cmapDefence } from './defences/cmap.ts';
export {
  type AttackSurface,
  bareSurface,
  type Defence,
  type Judged,
  type JudgeHooks,
  type Knowledge,
  single,
} from './defences/defence.ts';
export { consistencyDenoiser, type Denoiser, scoreDenoiser } from './defences/denoiser.ts';
export { type DiffPureSettings, diffPure, diffPureDefaults } from './defences/diffpure.ts';
export { type GdmpSettings, gdmp, gdmpDefaults } from './defences/gdmp.ts';
export { type GnsSettings, gns, gnsDefaults } from './defences/gns.ts';
export { undefended } from './defences/none.ts';
export { type AdapterRecord, listAdapters, type OpenOptions } from './engine/adapter.ts';
export { differentiable, noGrad, recompute, type Vjp, valueAndGrad, vjp } from './engine/autograd.ts';
export type { Capabilities } from './engine/capabilities.ts';
export { Device, type MemoryReport } from './engine/device.ts';
export {
  AdapterError,
  CmapError,
  check,
  DeviceLostError,
  formatBytes,
  InputError,
  KernelError,
  OutOfMemoryError,
  ShapeError,
} from './engine/errors.ts';
export { type Kernel, kernel, linearGrid } from './engine/kernel.ts';
export type { KernelTime, ProfileRow, Profiler } from './engine/profile.ts';
export type { Program, ProgramCost } from './engine/program.ts';
export * from './engine/random.ts';
export type { DType, HostData, Numbers, Shape, Tensor } from './engine/tensor.ts';
export { frechetDistance, type Moments, momentsOf } from './eval/frechet.ts';
export { compare, summarise } from './eval/metrics.ts';
export { parseIdx } from './formats/idx.ts';
export { type Image, imageFromFloats, imageToFloats } from './formats/image.ts';
export { parseSafetensors, type Safetensors } from './formats/safetensors.ts';
export * as kernels from './kernels/index.ts';
export { problemsOf, type Tuned, tune } from './kernels/tune.ts';
export { type AdmConfig, adm, admImageNet64, improvedDiffusionImageNet64 } from './nets/adm.ts';
export { type Architecture, ClassifierNet } from './nets/classifier.ts';
export {
  ConsistencyModel,
  type ConsistencyOptions,
  karrasLevels,
  preconditioning,
  publishedSigmas,
  type Sigmas,
} from './nets/consistency.ts';
export { Lpips, type LpipsOptions } from './nets/lpips.ts';
export { ddpmppCifar10, type NcsnppConfig, ncsnpp, ncsnppCifar10 } from './nets/ncsnpp.ts';
export {
  type BindOptions,
  bindParameters,
  countParameters,
  type Parameter,
  type ParameterShapes,
  Parameters,
  StateDict,
  type TensorSource,
  torchConv,
  torchLinear,
  unbindParameters,
} from './nets/parameters.ts';
export { type Network, network, networkNames } from './nets/registry.ts';
export { cifarResNet, resNet } from './nets/resnet.ts';
export { ScoreNetwork } from './nets/score.ts';
export type { UNet } from './nets/unet.ts';
export { dmWideResNet, wideResNet } from './nets/wide-resnet.ts';
export { formatProportion, mcnemar, wilson } from './report/statistics.ts';
export type { LoadedClassifier, LoadedModel, Preset } from './shipped.ts';

/** The shipped networks of a folder `weights` that is served as it lies in the package. */
export class ShippedNetworks {
  private constructor(
    readonly base: URL,
    private readonly manifest: Readonly<Record<string, ManifestEntry>>,
    private readonly presets: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
  ) {}

  /** @param base of manifest.json, relative to the page; ends with a slash @throws InputError when it cannot be fetched */
  static async at(base: string | URL): Promise<ShippedNetworks> {
    const url = new URL(base, globalThis.location?.href);
    const where = new URL('manifest.json', url);
    const bytes = await fetchBytes(where);
    let read: unknown;
    try {
      read = JSON.parse(new TextDecoder().decode(bytes));
    } catch {
      throw new InputError(`${where}: not JSON; is this the folder weights of the package?`);
    }
    if (typeof read !== 'object' || read === null || Array.isArray(read))
      throw new InputError(`${where}: not a manifest of networks`);
    const { presets = {}, ...manifest } = read as Record<string, never>;
    return new ShippedNetworks(url, manifest, presets);
  }

  /** Of a data set, such as fashion-mnist: its networks' names and hyper-parameters. @throws InputError */
  preset(dataset: string): Preset & { readonly generator: string; readonly classifier: string } {
    const where = `${this.base}manifest.json: presets.${dataset}`;
    const found = Object.hasOwn(this.presets, dataset) ? this.presets[dataset] : undefined;
    if (typeof found?.generator !== 'string' || typeof found.classifier !== 'string')
      throw new InputError(`${where} does not name a generator and a classifier`);
    return { ...presetFrom(found, where), generator: found.generator, classifier: found.classifier };
  }

  /** @throws InputError when it is not there, damaged, or another kind */
  async consistencyModel(device: Device, name: string): Promise<LoadedModel> {
    return consistencyModelOf(device, name, this.#entry(name), await this.#open(name));
  }

  /** @throws InputError when it is not there, damaged, or another kind */
  async classifier(device: Device, name: string): Promise<LoadedClassifier> {
    return classifierOf(device, name, this.#entry(name), await this.#open(name));
  }

  #entry(name: string): ManifestEntry {
    const entry = Object.hasOwn(this.manifest, name) ? this.manifest[name] : undefined;
    if (!entry) throw new InputError(`${this.base}manifest.json: no weights "${name}"`);
    return entry;
  }

  async #open(name: string) {
    const { file, sha256 } = this.#entry(name);
    const url = new URL(file, this.base);
    const bytes = await fetchBytes(url);
    // Only pages from https or this machine have it.
    if (globalThis.crypto?.subtle) {
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
      const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
      if (found !== sha256)
        throw new InputError(
          `${url}: changed or damaged: SHA-256 is ${found.slice(0, 12)}..., the manifest says ${sha256.slice(0, 12)}...`,
        );
    }
    return parseSafetensors(bytes, String(url));
  }
}

/** @throws InputError */
async function fetchBytes(url: URL): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new InputError(`${url}: cannot be fetched: ${(error as Error).message}`);
  }
  if (!response.ok) throw new InputError(`${url}: the server answers ${response.status}`);
  try {
    return await response.arrayBuffer();
  } catch (error) {
    throw new InputError(`${url}: cut off: ${(error as Error).message}`);
  }
}
