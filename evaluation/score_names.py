"""Names of the scores in results.json, and their titles in tables. Imports no torch, which takes two seconds."""

IMAGE_SCORES = ("psnr", "ssim", "psnr_rgba", "ssim_rgba")
LABEL_SCORES = ("miou", "miou_no_background")
CATEGORY_SCORES = ("category_miou", "category_miou_no_background")
SCORES_3D = ("miou_3d", "category_miou_3d", "cloud_distance")
TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "psnr_rgba": "PSNR RGBA (dB)",
    "ssim_rgba": "SSIM RGBA",
    "miou": "mIoU",
    "miou_no_background": "mIoU without background",
    "category_miou": "category mIoU",
    "category_miou_no_background": "category mIoU without background",
    "miou_3d": "3-D mIoU",
    "category_miou_3d": "3-D category mIoU",
    "cloud_distance": "distance to the rendered surface",
}
