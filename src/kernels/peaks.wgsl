// y[g] = max |x[i]| over the part of x that workgroup g reads; the largest of all is left to whoever reads y.
// Constants: PARTS, workgroups and elements of y; T: vec4<f32>, or f32. Grid: PARTS.
struct Params { count: u32 }
@group(0) @binding(0) var<storage, read> x: array<T>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
var<workgroup> peaks: array<T, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32, @builtin(workgroup_id) group: vec3<u32>) {
  var peak = T();
  for (var i = group.x * 256u + local; i < params.count; i += 256u * PARTS) { peak = max(peak, abs(x[i])); }
  peaks[local] = peak;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (local < half) { peaks[local] = max(peaks[local], peaks[local + half]); }
  }
  if (local == 0u) { y[group.x] = widest(peaks[0]); }
}
