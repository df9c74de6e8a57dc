package fedmeter.client;

import io.grpc.ManagedChannelBuilder;
import io.grpc.netty.NettyChannelBuilder;
import io.netty.handler.codec.http2.Http2SecurityUtil;
import io.netty.handler.ssl.AlpnSslContext;
import io.netty.handler.ssl.JdkSslContext;
import io.netty.handler.ssl.SslContextBuilder;
import io.netty.handler.ssl.SslProvider;
import java.io.ByteArrayInputStream;
import java.util.Optional;
import javax.net.ssl.SSLException;

/** Channels over Debian's netty, with TLS: gRPC's own way to it fails there, see {@link AlpnSslContext}. */
final class DesktopChannels implements Channels {
    @Override
    public ManagedChannelBuilder<?> builder(String address, Security security) {
        Optional<Security.Pems> pems = security.pems();
        if (pems.isEmpty()) {
            return Channels.GRPC.builder(address, security);
        }
        try {
            SslContextBuilder tls = SslContextBuilder.forClient().sslProvider(SslProvider.JDK)
                    .trustManager(new ByteArrayInputStream(pems.get().authority));
            if (pems.get().certificate != null) {
                tls.keyManager(new ByteArrayInputStream(pems.get().certificate),
                        new ByteArrayInputStream(pems.get().key));
            }
            JdkSslContext trusted = (JdkSslContext) tls.build();
            return NettyChannelBuilder.forTarget(address)
                    .sslContext(new AlpnSslContext(trusted.context(), Http2SecurityUtil.CIPHERS));
        } catch (SSLException | IllegalArgumentException broken) {
            throw Security.unusable(broken);
        }
    }
}
