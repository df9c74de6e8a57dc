package android.graphics;

public final class Bitmap {
    private Bitmap() {}

    public static Bitmap createScaledBitmap(Bitmap src, int dstWidth, int dstHeight, boolean filter) {
        throw new UnsupportedOperationException();
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {}

    public void recycle() {}
}
