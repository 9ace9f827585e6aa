// As reduce-max.wgsl with a workgroup of 64 for each element of y. Among equal values the lowest index wins at
// every step of the tree, so the result is the same. Grid: one workgroup an element of y, folded.
struct Params { count: u32, length: u32, inner: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;
var<workgroup> values: array<f32, 64>;
var<workgroup> indices: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(local_invocation_index) lane: u32,
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  let i = group.x + group.y * groups.x;
  if (i >= params.count) { return; }
  let o = i / params.inner;
  let base = o * params.length * params.inner + (i - o * params.inner);
  // Lanes beyond the length repeat element 0, which changes nothing.
  var best = x[base];
  var where_ = 0u;
  for (var r = lane; r < params.length; r += 64u) {
    let v = x[base + r * params.inner];
    if (v > best) { best = v; where_ = r; }
  }
  values[lane] = best;
  indices[lane] = where_;
  for (var half = 32u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let v = values[lane + half];
      let k = indices[lane + half];
      if (v > values[lane] || (v == values[lane] && k < indices[lane])) {
        values[lane] = v;
        indices[lane] = k;
      }
    }
  }
  if (lane == 0u) {
    y[i] = values[0];
    index[i] = indices[0];
  }
}
