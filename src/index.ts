/** The public API. */
export { Apgd, type ApgdOptions } from './attacks/apgd.ts';
export type { Attack, AttackHooks, AttackResult, ImageTrace, Norm } from './attacks/attack.ts';
export { AutoAttack, type AutoAttackOptions, type AutoAttackResult } from './attacks/autoattack.ts';
export { Disruption, type DisruptionOptions, latentTau, publishedTau } from './attacks/disruption.ts';
export { Fab, type FabOptions } from './attacks/fab.ts';
export { Fgsm, type FgsmOptions } from './attacks/fgsm.ts';
export { LowFrequency, type LowFrequencyOptions } from './attacks/low-frequency.ts';
export { Noise, type NoiseOptions } from './attacks/noise.ts';
export { checkPgdOptions, Pgd, type PgdHooks, type PgdOptions, pgd } from './attacks/pgd.ts';
export { type PortfolioOptions, portfolio } from './attacks/portfolio.ts';
export type { Eot } from './attacks/query.ts';
export { Square, type SquareOptions } from './attacks/square.ts';
export { karrasGrid, publishedAttackSigma, surrogate } from './attacks/surrogate.ts';
export type { Draw, GraphTarget, Process, ProcessTarget, Target } from './attacks/target.ts';
export { ThroughCmap, type ThroughCmapOptions, type UnrollOptions } from './attacks/through-cmap.ts';
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
export { cifar10Classes, loadCifar10 } from './data/cifar10.ts';
export { fashionMnistClasses, type LabelledImages, loadFashionMnist } from './data/fashion-mnist.ts';
export { ImageFolder } from './data/image-folder.ts';
export { paperSubset } from './data/subset.ts';
export { centerCrop, evaluationTransform, resizeBilinear } from './data/transforms.ts';
export { type AdpSettings, adp, adpDefaults } from './defences/adp.ts';
export { bitDepthDefence } from './defences/bits.ts';
export { cmapDefence } from './defences/cmap.ts';
export type { AttackSurface, Defence, Judged } from './defences/defence.ts';
export { consistencyDenoiser, type Denoiser, scoreDenoiser } from './defences/denoiser.ts';
export { type DiffPureSettings, diffPure, diffPureDefaults } from './defences/diffpure.ts';
export { type GdmpSettings, gdmp, gdmpDefaults } from './defences/gdmp.ts';
export { type GnsSettings, gns, gnsDefaults } from './defences/gns.ts';
export { undefended } from './defences/none.ts';
export { type AdapterRecord, listAdapters, type OpenOptions } from './engine/adapter.ts';
export { differentiable, noGrad, recompute, valueAndGrad, vjp } from './engine/autograd.ts';
export type { Capabilities } from './engine/capabilities.ts';
export { Device, type MemoryReport } from './engine/device.ts';
export * from './engine/errors.ts';
export { type Kernel, kernel, linearGrid } from './engine/kernel.ts';
export type { KernelTime, ProfileRow, Profiler } from './engine/profile.ts';
export type { Program, ProgramCost } from './engine/program.ts';
export * from './engine/random.ts';
export type { DType, Shape, Tensor } from './engine/tensor.ts';
export { type AttackEntry, planAttacks, registerAttack } from './eval/attacks.ts';
export { frechetDistance, type Moments, momentsOf } from './eval/frechet.ts';
export { compare, summarise } from './eval/metrics.ts';
export { featureMoments, type ImageSource, imagesOf, restore, samplesOf } from './eval/quality.ts';
export { runEvaluation } from './eval/run.ts';
export { MemoryStore, readEvaluation, Store } from './eval/store.ts';
export { verifyEvaluation } from './eval/verify.ts';
export { type Checkpoint, type CheckpointFormat, openCheckpoint } from './formats/checkpoint.ts';
export { type Image, imageFromFloats, imageToFloats } from './formats/image.ts';
export { readJpeg } from './formats/jpeg.ts';
export { readNpy, writeNpy } from './formats/npy.ts';
export { readPng, writePng } from './formats/png.ts';
export { openSafetensors, writeSafetensors } from './formats/safetensors.node.ts';
export { parseSafetensors, type Safetensors } from './formats/safetensors.ts';
export * as kernels from './kernels/index.ts';
export { problemsOf, type Tuned, tune } from './kernels/tune.ts';
export { loadClassifier, loadConsistencyModel, loadPreset, shippedNetwork } from './models.ts';
export { type AdmConfig, adm, admImageNet64, improvedDiffusionImageNet64 } from './nets/adm.ts';
export { type Architecture, ClassifierNet } from './nets/classifier.ts';
export {
  ConsistencyModel,
  type ConsistencyOptions,
  preconditioning,
  publishedSigmas,
  type Sigmas,
} from './nets/consistency.ts';
export { ddpmppCifar10, type NcsnppConfig, ncsnpp, ncsnppCifar10 } from './nets/ncsnpp.ts';
export {
  type BindOptions,
  bindParameters,
  countParameters,
  type Parameter,
  type ParameterShapes,
  Parameters,
  type TensorSource,
} from './nets/parameters.ts';
export { type Network, network, networkNames } from './nets/registry.ts';
export { cifarResNet, resNet } from './nets/resnet.ts';
export { ScoreNetwork } from './nets/score.ts';
export type { UNet } from './nets/unet.ts';
export { dmWideResNet, wideResNet } from './nets/wide-resnet.ts';
export { formatProportion, mcnemar, wilson } from './report/statistics.ts';
export type { LoadedClassifier, LoadedModel, Preset } from './shipped.ts';
export { configure, configureFrom } from './train/config.ts';
export { train } from './train/loop.ts';
export { loadTuning, saveTuning, tuningPath } from './tuning.ts';
