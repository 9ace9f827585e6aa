// A Vulkan driver that compiles as RADV does for the GPU that RADV_FORCE_FAMILY names, and runs nothing: no such GPU is needed.
// RADV's own null device has neither memory nor command buffers, without which Dawn opens no device, so those calls are answered
// here; all others are RADV's. Every pipeline is made with its statistics and machine code kept, which are appended to the file
// that CODE_OUT names. What buffers hold is undefined.
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>

static PFN_vkGetInstanceProcAddr radv_instance_proc;
static PFN_vkGetDeviceProcAddr radv_device_proc;
static PFN_vkGetInstanceProcAddr radv_physical_proc;
static PFN_vkVoidFunction radv_negotiate;

static int open_radv(void) {
  if (radv_instance_proc) return 1;
  void *radv = dlopen("libvulkan_radeon.so", RTLD_NOW | RTLD_LOCAL);
  if (!radv) return 0;
  radv_instance_proc = (PFN_vkGetInstanceProcAddr)dlsym(radv, "vk_icdGetInstanceProcAddr");
  radv_negotiate = (PFN_vkVoidFunction)dlsym(radv, "vk_icdNegotiateLoaderICDInterfaceVersion");
  radv_physical_proc = (PFN_vkGetInstanceProcAddr)dlsym(radv, "vk_icdGetPhysicalDeviceProcAddr");
  return radv_instance_proc && radv_physical_proc && radv_negotiate;
}

// ---- what does nothing

static VkResult nothing(void) { return VK_SUCCESS; }

static int is_nothing(const char *name) {
  static const char *const names[] = {
    "vkBeginCommandBuffer", "vkEndCommandBuffer", "vkResetCommandBuffer", "vkResetCommandPool", "vkQueueSubmit",
    "vkQueueSubmit2", "vkQueueSubmit2KHR", "vkQueueWaitIdle", "vkDeviceWaitIdle", "vkWaitForFences", "vkGetFenceStatus",
    "vkResetFences", "vkWaitSemaphores", "vkUpdateDescriptorSets", "vkUpdateDescriptorSetWithTemplate",
    "vkUpdateDescriptorSetWithTemplateKHR", "vkUnmapMemory", "vkFlushMappedMemoryRanges",
    "vkInvalidateMappedMemoryRanges", "vkBindBufferMemory", "vkBindBufferMemory2", "vkBindBufferMemory2KHR"};
  if (!strncmp(name, "vkCmd", 5)) return 1;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strcmp(name, names[i])) return 1;
  return 0;
}

// ---- memory: one type, which exists once it is mapped

struct memory {
  VkDeviceSize size;
  void *data;
};

static void memory_types(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties *m) {
  (void)physical;
  memset(m, 0, sizeof *m);
  m->memoryTypeCount = m->memoryHeapCount = 1;
  m->memoryTypes[0].propertyFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                    VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  m->memoryHeaps[0] = (VkMemoryHeap){64ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
}

static void memory_types2(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2 *m) {
  memory_types(physical, &m->memoryProperties);
}

static PFN_vkGetBufferMemoryRequirements radv_needs;
static void needs(VkDevice device, VkBuffer buffer, VkMemoryRequirements *r) {
  radv_needs(device, buffer, r);
  r->memoryTypeBits = 1;
}

static PFN_vkGetBufferMemoryRequirements2 radv_needs2;
static void needs2(VkDevice device, const VkBufferMemoryRequirementsInfo2 *buffer, VkMemoryRequirements2 *r) {
  radv_needs2(device, buffer, r);
  r->memoryRequirements.memoryTypeBits = 1;
}

static VkResult allocate(VkDevice device, const VkMemoryAllocateInfo *info, const VkAllocationCallbacks *a,
                         VkDeviceMemory *out) {
  (void)device, (void)a;
  struct memory *m = calloc(1, sizeof *m);
  if (!m) return VK_ERROR_OUT_OF_HOST_MEMORY;
  m->size = info->allocationSize;
  *out = (VkDeviceMemory)m;
  return VK_SUCCESS;
}

static void release(VkDevice device, VkDeviceMemory handle, const VkAllocationCallbacks *a) {
  (void)device, (void)a;
  struct memory *m = (struct memory *)handle;
  if (!m) return;
  free(m->data);
  free(m);
}

static VkResult map(VkDevice device, VkDeviceMemory handle, VkDeviceSize at, VkDeviceSize size, VkMemoryMapFlags flags,
                    void **out) {
  (void)device, (void)size, (void)flags;
  struct memory *m = (struct memory *)handle;
  if (!m->data) m->data = calloc(1, m->size);
  *out = (char *)m->data + at;
  return m->data ? VK_SUCCESS : VK_ERROR_MEMORY_MAP_FAILED;
}

// A fence that another process may wait for cannot be made; nobody does.
static PFN_vkCreateFence radv_fence;
static VkResult fence(VkDevice device, const VkFenceCreateInfo *info, const VkAllocationCallbacks *a, VkFence *out) {
  VkFenceCreateInfo plain = *info;
  plain.pNext = NULL;
  return radv_fence(device, &plain, a, out);
}

// ---- pipelines

static PFN_vkCreateDevice radv_create_device;
static VkResult create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *a,
                              VkDevice *out) {
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, (void *)info->pNext, VK_TRUE};
  const char **names = malloc((info->enabledExtensionCount + 1) * sizeof *names);
  if (!names) return VK_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(names, info->ppEnabledExtensionNames, info->enabledExtensionCount * sizeof *names);
  VkDeviceCreateInfo mine = *info;
  mine.pNext = &feature;
  names[mine.enabledExtensionCount++] = "VK_KHR_pipeline_executable_properties";
  mine.ppEnabledExtensionNames = names;
  VkResult result = radv_create_device(physical, &mine, a, out);
  free(names);
  return result;
}

static void write_code(FILE *out, VkDevice device, VkPipeline pipeline) {
  PFN_vkGetPipelineExecutableStatisticsKHR statistics =
    (PFN_vkGetPipelineExecutableStatisticsKHR)radv_device_proc(device, "vkGetPipelineExecutableStatisticsKHR");
  PFN_vkGetPipelineExecutableInternalRepresentationsKHR texts =
    (PFN_vkGetPipelineExecutableInternalRepresentationsKHR)radv_device_proc(
      device, "vkGetPipelineExecutableInternalRepresentationsKHR");
  VkPipelineExecutableInfoKHR info = {VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, pipeline, 0};
  VkPipelineExecutableStatisticKHR s[64];
  uint32_t count = 64;
  for (uint32_t i = 0; i < count; i++)
    s[i] = (VkPipelineExecutableStatisticKHR){.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR};
  if (!statistics || !texts || statistics(device, &info, &count, s) < 0) count = 0;
  for (uint32_t i = 0; i < count; i++)
    fprintf(out, "@ statistic %s = %llu\n", s[i].name, (unsigned long long)s[i].value.u64);
  VkPipelineExecutableInternalRepresentationKHR t[16];
  for (int pass = 0; pass < 2; pass++) {
    // First for the sizes, then for the texts.
    count = 16;
    for (uint32_t i = 0; i < count; i++) {
      if (pass == 0)
        t[i] = (VkPipelineExecutableInternalRepresentationKHR){
          .sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR};
      else if (t[i].dataSize)
        t[i].pData = malloc(t[i].dataSize);
    }
    if (!texts || texts(device, &info, &count, t) < 0) count = 0;
  }
  for (uint32_t i = 0; i < count; i++) {
    if (t[i].pData && t[i].isText && !strcmp(t[i].name, "Assembly"))
      fprintf(out, "@ code\n%.*s\n", (int)t[i].dataSize, (const char *)t[i].pData);
    free(t[i].pData);
  }
}

static PFN_vkCreateComputePipelines radv_create;
static VkResult create(VkDevice device, VkPipelineCache cache, uint32_t count, const VkComputePipelineCreateInfo *info,
                       const VkAllocationCallbacks *a, VkPipeline *out) {
  VkComputePipelineCreateInfo *mine = malloc(count * sizeof *mine);
  if (!mine) return VK_ERROR_OUT_OF_HOST_MEMORY;
  memcpy(mine, info, count * sizeof *mine);
  for (uint32_t i = 0; i < count; i++)
    mine[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR |
                     VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR;
  VkResult result = radv_create(device, cache, count, mine, a, out);
  free(mine);
  const char *path = getenv("CODE_OUT");
  FILE *file = result == VK_SUCCESS && path ? fopen(path, "a") : NULL;
  if (file) {
    for (uint32_t i = 0; i < count; i++) write_code(file, device, out[i]);
    fclose(file);
  }
  return result;
}

// ---- what the loader asks for

#define REPLACE(vulkan, type, radv, own)                \
  if (!strcmp(name, vulkan)) {                          \
    radv = (type)f;                                     \
    return (PFN_vkVoidFunction)own;                     \
  }

static PFN_vkVoidFunction device_proc(VkDevice device, const char *name) {
  PFN_vkVoidFunction f = radv_device_proc(device, name);
  if (!f) return f;
  REPLACE("vkCreateComputePipelines", PFN_vkCreateComputePipelines, radv_create, create)
  REPLACE("vkGetBufferMemoryRequirements", PFN_vkGetBufferMemoryRequirements, radv_needs, needs)
  REPLACE("vkGetBufferMemoryRequirements2", PFN_vkGetBufferMemoryRequirements2, radv_needs2, needs2)
  REPLACE("vkGetBufferMemoryRequirements2KHR", PFN_vkGetBufferMemoryRequirements2, radv_needs2, needs2)
  REPLACE("vkCreateFence", PFN_vkCreateFence, radv_fence, fence)
  if (!strcmp(name, "vkAllocateMemory")) return (PFN_vkVoidFunction)allocate;
  if (!strcmp(name, "vkFreeMemory")) return (PFN_vkVoidFunction)release;
  if (!strcmp(name, "vkMapMemory")) return (PFN_vkVoidFunction)map;
  return is_nothing(name) ? (PFN_vkVoidFunction)nothing : f;
}

VKAPI_ATTR PFN_vkVoidFunction vk_icdGetInstanceProcAddr(VkInstance instance, const char *name) {
  PFN_vkVoidFunction f = open_radv() ? radv_instance_proc(instance, name) : NULL;
  if (!f) return f;
  REPLACE("vkGetDeviceProcAddr", PFN_vkGetDeviceProcAddr, radv_device_proc, device_proc)
  REPLACE("vkCreateDevice", PFN_vkCreateDevice, radv_create_device, create_device)
  if (!strcmp(name, "vkGetPhysicalDeviceMemoryProperties")) return (PFN_vkVoidFunction)memory_types;
  if (!strcmp(name, "vkGetPhysicalDeviceMemoryProperties2")) return (PFN_vkVoidFunction)memory_types2;
  if (!strcmp(name, "vkGetPhysicalDeviceMemoryProperties2KHR")) return (PFN_vkVoidFunction)memory_types2;
  return is_nothing(name) ? (PFN_vkVoidFunction)nothing : f;
}

// Of those alone whose first argument is a physical device.
VKAPI_ATTR PFN_vkVoidFunction vk_icdGetPhysicalDeviceProcAddr(VkInstance instance, const char *name) {
  return open_radv() && radv_physical_proc(instance, name) ? vk_icdGetInstanceProcAddr(instance, name) : NULL;
}

VKAPI_ATTR VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
  return open_radv() ? ((VkResult(*)(uint32_t *))radv_negotiate)(version) : VK_ERROR_INITIALIZATION_FAILED;
}
